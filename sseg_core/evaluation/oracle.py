"""The best that pseudo-masks allow: each segment is told its majority class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import resize_image
from sseg_core.evaluation.benchmarks import Example
from sseg_core.evaluation.metrics import NO_CLASS
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import IGNORE_LABEL


class Oracle:
    """Segments images without words and takes the classes from the truth.

    Its mIoU bounds what a model can reach that learns its masks from these segments alone.
    """

    def __init__(self, config: PseudomaskConfig, num_classes: int, device: torch.device) -> None:
        self._image_size = config.image_size
        self._num_classes = num_classes
        self._device = device
        self._generator = PseudoMaskGenerator(config, device)

    def __call__(self, examples: Sequence[Example]) -> list[npt.NDArray[np.int16]]:
        """Return for each example an [H, W] label map in the terms of its truth."""
        images = square_images([e.image for e in examples], self._image_size, self._device)
        segments = self._generator(images, [example.key for example in examples])
        return [
            majority_labels(np.asarray(label_map), example.truth, self._num_classes)
            for label_map, example in zip(segments, examples, strict=True)
        ]


def square_images(
    images: Sequence[npt.NDArray[np.uint8]], side: int, device: torch.device
) -> torch.Tensor:
    """Return [H, W, 3] uint8 images as one [B, 3, side, side] float batch in [0, 1]."""
    pixels = np.stack([resize_image(image, (side, side)) for image in images])
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255


def majority_labels(
    segments: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    num_classes: int,
) -> npt.NDArray[np.int16]:
    """Return the label map in which each segment has the class of most of its pixels.

    Args:
        segments: [h, w] segment ids 0 to 255, stretched to the truth's size by nearest cell.
        truth: [H, W] class index, or 255 where none counts.
        num_classes: C.

    Returns:
        [H, W] class index; -1 in segments of which no pixel counts.
    """
    H, W = truth.shape
    h, w = segments.shape
    # The cell that holds the pixel's centre, in whole numbers: floor((y + 0.5) * h / H).
    rows = (2 * np.arange(H) + 1) * h // (2 * H)
    columns = (2 * np.arange(W) + 1) * w // (2 * W)
    ids = segments[rows[:, None], columns].astype(np.intp)
    counted = truth != IGNORE_LABEL
    votes = np.bincount(
        ids[counted] * num_classes + truth[counted], minlength=256 * num_classes
    ).reshape(256, num_classes)
    winners = np.where(votes.any(axis=1), votes.argmax(axis=1), NO_CLASS).astype(np.int16)
    labels: npt.NDArray[np.int16] = winners[ids]
    return labels
