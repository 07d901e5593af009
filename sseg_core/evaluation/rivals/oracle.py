"""The best that pseudo-masks allow: each segment is told its majority class."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import resize_image
from sseg_core.evaluation.examples import VOID, Example, LabelMap
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import IGNORE_LABEL


class Oracle:
    """Segments images without words and takes the classes from the truth (S-Seg Table 1).

    Its mIoU bounds what a model can reach that learns its masks from these segments alone.
    """

    def __init__(self, config: PseudomaskConfig, num_classes: int, device: torch.device) -> None:
        self._image_size = config.image_size
        self._num_classes = num_classes
        self._device = device
        self._generator = PseudoMaskGenerator(config, device)
        self._seconds, self._images = 0.0, 0

    def __call__(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return for each example an [H, W] label map in the terms of its truth."""
        images = square_images([e.image for e in examples], self._image_size, self._device)
        segments = self._segments(images, [example.key for example in examples])
        return [
            Prediction(majority_labels(label_map, example.truth, self._num_classes))
            for label_map, example in zip(segments, examples, strict=True)
        ]

    @property
    def milliseconds_per_image(self) -> float:
        """Time in the generator alone, from float images on the device to label maps.

        Amortised over the batch, as in Table 1; reading and resizing images are not in it.
        """
        assert self._images
        return 1000 * self._seconds / self._images

    def _segments(self, images: torch.Tensor, keys: Sequence[str]) -> npt.NDArray[np.uint8]:
        if not self._images:
            # What happens only once, such as loading kernels, is not part of the time; on a GPU
            # that depends on the size of the batch.
            warm_up = len(images) if self._device.type == "cuda" else 1
            self._generator(images[:warm_up], keys[:warm_up])
        _finish(self._device)
        start = time.perf_counter()
        segments = self._generator(images, keys)
        _finish(self._device)
        self._seconds += time.perf_counter() - start
        self._images += len(images)
        label_maps: npt.NDArray[np.uint8] = segments.cpu().numpy()
        return label_maps


def _finish(device: torch.device) -> None:
    """Wait for the work that a GPU does in the background."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def square_images(
    images: Sequence[npt.NDArray[np.uint8]], side: int, device: torch.device
) -> torch.Tensor:
    """Return [H, W, 3] uint8 images as one [B, 3, side, side] float batch in [0, 1]."""
    pixels = np.stack([resize_image(image, (side, side)) for image in images])
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255


def majority_labels(
    segments: npt.NDArray[np.integer],
    truth: LabelMap,
    num_classes: int,
) -> LabelMap:
    """Return the label map in which each segment has the class of most of its pixels.

    Args:
        segments: [h, w] segment ids, 255 where there is none, stretched to the truth's size by
            nearest cell.
        truth: [H, W] class index, `BACKGROUND` or `VOID`.
        num_classes: C.

    Returns:
        [H, W] class index or `BACKGROUND`; `VOID` where there is no segment, or one without a
        pixel that counts.
    """
    H, W = truth.shape
    h, w = segments.shape
    # The cell that holds the pixel's centre, in whole numbers: floor((y + 0.5) * h / H).
    rows = (2 * np.arange(H) + 1) * h // (2 * H)
    columns = (2 * np.arange(W) + 1) * w // (2 * W)
    ids = segments[rows[:, None], columns].astype(np.intp)
    counted = truth != VOID
    num_labels = num_classes + 1  # the first is background
    votes = np.bincount(
        ids[counted] * num_labels + truth[counted] + 1, minlength=256 * num_labels
    ).reshape(256, num_labels)
    winners = np.where(votes.any(axis=1), votes.argmax(axis=1) - 1, VOID).astype(np.int16)
    winners[IGNORE_LABEL] = VOID
    labels: LabelMap = winners[ids]
    return labels
