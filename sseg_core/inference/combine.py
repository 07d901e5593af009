"""From mask logits and class probabilities to a class for every pixel.

The one place that does so, for prediction, evaluation and self-training alike. As in MaskFormer's
semantic inference, with S-Seg's open vocabulary (S-Seg Sec. 3.2, App. A.1):

    S_c(y, x) = sum_q p(c | q) sigmoid(m_q(y, x)),      P_c = S_c / sum_q sigmoid(m_q)

Mask logits are interpolated bilinearly to the pixels before the sigmoid. The division turns the
scores into probabilities, which a background threshold needs; it does not change the best class.
Where windows of the image were looked at, P_c is the mean over those that cover the pixel, weighted
where they taper; where it was looked at at several sizes or mirrored, the mean over these looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sseg_core.inference.best_class import Ranking
from sseg_core.inference.mask_weights import WindowMasks, weighted_regions
from sseg_core.inference.windows import Box, Window
from sseg_core.structures import BACKGROUND

__all__ = [
    "BACKGROUND",
    "BestClasses",
    "MaskGrid",
    "best_classes",
    "best_of_windows",
    "class_probabilities",
    "class_scores",
]


@dataclass(frozen=True)
class MaskGrid:
    """Where the mask logits lie in the image.

    Attributes:
        input_size: height and width of the image as the network saw it, without padding.
        stride: pixels of that image per grid cell; cell (i, j) covers the square of pixels that
            begins at (i * stride, j * stride), also where it sticks out of the image.
    """

    input_size: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class BestClasses:
    """The most probable class of each pixel, of one image or of a batch.

    Attributes:
        classes: [H, W] or [B, H, W] int16 index of the class; of equal ones the first.
        probabilities: the same shape, float32 in [0, 1], the probability of that class.
    """

    classes: Tensor
    probabilities: Tensor


def class_probabilities(
    mask_embeddings_BQD: Tensor, text_embeddings_CD: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Return p(c | q): what each mask shows, as far as the class names go (S-Seg App. A.1).

    Args:
        mask_embeddings_BQD: [B, Q, D] projected mask features, L2-normalised.
        text_embeddings_CD: [C, D] projected text features, L2-normalised.
        logit_scale: 1 / sigma, the learned temperature of Eq. 2-3.

    Returns:
        [B, Q, C] float32, the softmax over the classes of the scaled cosine similarities.
    """
    cosines_BQC = mask_embeddings_BQD.float() @ text_embeddings_CD.float().T
    return (logit_scale * cosines_BQC).softmax(dim=-1)


def class_scores(windows: Sequence[WindowMasks], size: tuple[int, int]) -> Tensor:
    """Return the probability of every class at every pixel of an image.

    Needs memory for all of it: where only the best class counts, use `best_of_windows`.

    Args:
        windows: of the image; those of each look cover it.
        size: H, W of the result; the image is stretched to it.

    Returns:
        [C, H, W] float32 in [0, 1], summing to 1 over the classes.
    """
    num_classes = windows[0].class_probabilities.shape[1]
    scores = torch.empty((num_classes, *size), device=windows[0].values.device)
    for region in weighted_regions(windows, size):
        for box, weights_Krs in region.blocks():
            block = torch.tensordot(region.class_probabilities, weights_Krs, dims=1)
            scores[:, box.top : box.bottom, box.left : box.right] = block[
                :, : box.height, : box.width
            ]
    return scores


def best_of_windows(windows: Sequence[WindowMasks], size: tuple[int, int]) -> BestClasses:
    """Return the best class of every pixel of an image, never holding all the scores.

    The arguments are those of `class_scores`.
    """
    device = windows[0].values.device
    classes = torch.empty(size, dtype=torch.int16, device=device)
    probabilities = torch.empty(size, device=device)
    for region in weighted_regions(windows, size):
        ranking = Ranking(region.class_probabilities)
        for box, weights_Krs in region.blocks():
            place = slice(box.top, box.bottom), slice(box.left, box.right)
            inside = slice(0, box.height), slice(0, box.width)
            best, scores = ranking.best(weights_Krs)
            classes[place], probabilities[place] = best[inside], scores[inside]
    return BestClasses(classes, probabilities)


def best_classes(
    mask_logits_BQhw: Tensor,
    class_probabilities_BQC: Tensor,
    size: tuple[int, int],
    grid: MaskGrid,
) -> BestClasses:
    """Return the best class of every pixel of a batch of images that were seen whole.

    Args:
        mask_logits_BQhw: [B, Q, h, w] logits of the masks.
        class_probabilities_BQC: [B, Q, C] from `class_probabilities`.
        size: H, W of the result; the images are stretched to it.
        grid: how the mask grid lies in the images.
    """
    whole = Window(Box(0, 0, *grid.input_size), grid.input_size)
    best = [
        best_of_windows([WindowMasks(logits, classes, whole, grid.stride)], size)
        for logits, classes in zip(mask_logits_BQhw, class_probabilities_BQC, strict=True)
    ]
    return BestClasses(
        torch.stack([one.classes for one in best]),
        torch.stack([one.probabilities for one in best]),
    )
