"""Classes that win too few pixels to be believed, as SCLIP leaves them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sseg_core.inference.combine import BestClasses, best_of_windows
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.structures import BACKGROUND


def without_small(
    best: BestClasses,
    windows: Sequence[WindowMasks],
    vocabulary: Vocabulary,
    min_share: float,
) -> BestClasses:
    """Return the best of the classes that are large enough, see `View.min_share`.

    As in SCLIP (Wang et al., ECCV 2024) the scores of the others count as 0, and words for
    background always take part. Where no class does, all is background.
    """
    classes_W = torch.tensor(vocabulary.classes, device=best.classes.device)
    pixels_W = best.classes.flatten().long().bincount(minlength=len(classes_W))
    is_class_W = classes_W != BACKGROUND
    pixels_C = pixels_W.new_zeros(len(vocabulary.class_names))
    pixels_C.index_add_(0, classes_W[is_class_W], pixels_W[is_class_W])
    is_large_C = pixels_C > min_share * pixels_C.sum()
    takes_part_W = ~is_class_W | is_large_C[classes_W]
    remaining = [
        replace(window, class_probabilities=window.class_probabilities * takes_part_W)
        for window in windows
    ]
    size = best.classes.shape[0], best.classes.shape[1]
    best = best_of_windows(remaining, size)
    classes = best.classes.masked_fill(best.probabilities <= 0, BACKGROUND)
    return BestClasses(classes, best.probabilities)
