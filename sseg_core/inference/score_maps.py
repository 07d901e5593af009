"""From the scores of words at every pixel to a label map, for networks that score pixels.

A pixel gets its best word and so the class of that word, which is the maximum over the synonyms
of a class. Scores come block by block; what is held at once does not grow with the number of words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sseg_core.data.images import RGBImage
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.pamr import refine
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box, Window
from sseg_core.structures import BACKGROUND

ScoreBlocks = Callable[[tuple[int, int]], Iterator[tuple[Box, Tensor]]]
"""Starts anew with each call; yields boxes of an image of H x W pixels, each pixel in one of them,
with [r, x, W] float scores of W words."""

_REFINED_SIDE = 112
"""Short side of the grid on which scores follow the colours: that of TCL's masks."""


def label_pixels(
    scores: ScoreBlocks, vocabulary: Vocabulary, image: RGBImage, view: View
) -> Prediction:
    """Return the best class of every pixel, with the score of its word as confidence.

    Where no word has a score, a pixel is background.

    Args:
        scores: in [0, 1], of the words of the vocabulary.
        vocabulary: the words.
        image: [H, W, 3] uint8, whose pixels they are.
        view: its `min_share` and `refine` are followed.
    """
    size = (image.shape[0], image.shape[1])
    if view.refine == "pamr":
        scores = _refined(scores, image)
    words, best = _best_words(scores(size), size)
    labels = vocabulary.class_map(words)
    if view.min_share > 0:
        pixels = np.bincount(labels[labels >= 0], minlength=len(vocabulary.class_names))
        is_small = pixels <= view.min_share * pixels.sum()
        classes = np.array(vocabulary.classes)
        takes_part = (classes == BACKGROUND) | ~is_small[classes]
        words, best = _best_words(scores(size), size, torch.from_numpy(takes_part))
        labels = vocabulary.class_map(words)
    return Prediction(np.where(best > 0, labels, np.int16(BACKGROUND)), best)


def _refined(scores: ScoreBlocks, image: RGBImage) -> ScoreBlocks:
    """Return scores that follow the colours of the image.

    As in TCL that is done on a coarse grid, which is stretched to the image afterwards.
    """
    coarse = at_short_side(image, _REFINED_SIDE)
    h, w = coarse.shape[:2]
    blocks = list(scores((h, w)))
    maps_hwW = blocks[0][1].new_empty(h, w, blocks[0][1].shape[2])
    for box, block in blocks:
        maps_hwW[box.top : box.bottom, box.left : box.right] = block
    colours = torch.from_numpy(np.require(coarse, requirements=["C", "W"])).permute(2, 0, 1)
    refined_Whw = refine(maps_hwW.permute(2, 0, 1), colours.to(maps_hwW.device))
    whole = Window(Box(0, 0, h, w), (h, w))
    return CellMaps([refined_Whw.permute(1, 2, 0)], [whole], cell=1).blocks


def _best_words(
    blocks: Iterator[tuple[Box, Tensor]], size: tuple[int, int], takes_part: Tensor | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return [H, W] the index of the best word, the first of equals, and its score.

    Args:
        blocks: the scores.
        size: H, W.
        takes_part: [W] bool; the score of other words counts as 0.
    """
    words, scores = np.empty(size, np.int64), np.empty(size, np.float32)
    for box, block in blocks:
        counted = block if takes_part is None else block * takes_part.to(block.device)
        best, index = counted.max(dim=2)
        place = slice(box.top, box.bottom), slice(box.left, box.right)
        words[place], scores[place] = index.cpu().numpy(), best.cpu().numpy()
    return words, scores
