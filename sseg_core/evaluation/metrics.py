"""Scores from a confusion matrix: mIoU, IoU per class, pixel accuracy, all in percent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sseg_core.structures import IGNORE_LABEL

NO_CLASS = -1
"""Predicted label of a pixel that was given no class; it is never right."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores in percent, 0 to 100.

    Attributes:
        miou: mean of `iou` over the classes that have one; NaN if none has.
        pixel_accuracy: share of the pixels whose class is right; NaN without pixels.
        iou: [C] intersection over union; NaN for a class that is neither in the truth nor in
            any prediction (such classes are left out of the mean, as in mmsegmentation).
        constant_miou: mIoU of the best constant prediction, one class for every pixel: what a
            score is to be read against; NaN without pixels.
    """

    miou: float
    pixel_accuracy: float
    iou: npt.NDArray[np.float64]
    constant_miou: float

    def mean_over(self, classes: Iterable[int]) -> float:
        """Return the mean IoU over some of the classes, by index; NaN if none has an IoU."""
        return _mean(self.iou[list(classes)])


class ConfusionMatrix:
    """Counts how often each true class was predicted as each class.

    Attributes:
        counts: [C, C + 1] int64, rows by truth, columns by prediction; the last column holds
            the pixels that were given no class.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(
        self,
        prediction: npt.NDArray[np.integer],
        truth: npt.NDArray[np.integer],
        ignore: int = IGNORE_LABEL,
    ) -> None:
        """Add the pixels of one image.

        Args:
            prediction: [H, W] class index, or `NO_CLASS`.
            truth: [H, W] class index, or `ignore` for a pixel that does not count.
            ignore: truth label of such pixels.
        """
        assert prediction.shape == truth.shape, (prediction.shape, truth.shape)
        counted = truth != ignore
        rows = truth[counted].astype(np.intp)
        columns = prediction[counted].astype(np.intp)
        columns[columns == NO_CLASS] = self.num_classes
        assert not rows.size or (rows.min() >= 0 and rows.max() < self.num_classes)
        assert not rows.size or (columns.min() >= 0 and columns.max() <= self.num_classes)
        cells = np.bincount(rows * (self.num_classes + 1) + columns, minlength=self.counts.size)
        self.counts += cells.reshape(self.counts.shape)

    def compute(self) -> Scores:
        """Return the scores of all pixels so far."""
        right = np.diagonal(self.counts)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - right
        iou = np.full(self.num_classes, np.nan)
        np.divide(100.0 * right, union, out=iou, where=union > 0)
        truth = self.counts.sum(axis=1)
        pixels = int(truth.sum())
        # One class for all pixels: its IoU is its share, that of the other true classes is 0.
        classes_in_truth = np.count_nonzero(truth)
        constant = 100.0 * int(truth.max()) / (pixels * classes_in_truth) if pixels else np.nan
        return Scores(
            miou=_mean(iou),
            pixel_accuracy=100.0 * int(right.sum()) / pixels if pixels else float("nan"),
            iou=iou,
            constant_miou=float(constant),
        )


def _mean(iou: npt.NDArray[np.float64]) -> float:
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else float("nan")
