"""Scores from a confusion matrix: IoU and accuracy per class and their means, all in percent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NO_CLASS = -1
"""Predicted label of a pixel that was given no class, which is never right; in the truth, label of
one that does not count."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores in percent, 0 to 100.

    Attributes:
        miou: mean of `iou` over the classes that have one; NaN if none has.
        mean_accuracy: mean of `accuracy` over the classes in the truth; NaN without pixels.
        frequency_weighted_iou: mean of `iou`, each weighted by the pixels of the class in the
            truth; NaN without pixels.
        pixel_accuracy: share of the pixels whose class is right; NaN without pixels.
        iou: [C] intersection over union; NaN for a class that is neither in the truth nor in
            any prediction (such classes are left out of the mean, as in mmsegmentation).
        accuracy: [C] share of a class's pixels that are right (recall); NaN for a class that is
            not in the truth.
        constant_miou: mIoU of the best constant prediction, one class for every pixel: what a
            score is to be read against; NaN without pixels.
    """

    miou: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    iou: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    constant_miou: float

    def mean_over(self, classes: Iterable[int]) -> float:
        """Return the mean IoU over some of the classes, by index; NaN if none has an IoU."""
        return float(mean_of_present(self.iou[list(classes)]))


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
        ignore: int = NO_CLASS,
    ) -> None:
        """Add the pixels of one image.

        Args:
            prediction: [H, W] class index, or negative for a pixel that was given no class.
            truth: [H, W] class index; negative, or `ignore`, for a pixel that does not count.
            ignore: another truth label of such pixels, as 255 is in files.
        """
        assert prediction.shape == truth.shape, (prediction.shape, truth.shape)
        counted = (truth >= 0) & (truth != ignore)
        if not counted.any():
            return
        rows = truth[counted].astype(np.intp)
        columns = prediction[counted].astype(np.intp)
        columns[columns < 0] = self.num_classes
        assert rows.max() < self.num_classes, rows.max()
        assert columns.max() <= self.num_classes, columns.max()
        # Only what the image shows: a table of all classes would cost more than the pixels do.
        row_labels, rows = _numbered(rows)
        column_labels, columns = _numbered(columns)
        cells = np.bincount(
            rows * len(column_labels) + columns, minlength=len(row_labels) * len(column_labels)
        )
        self.counts[np.ix_(row_labels, column_labels)] += cells.reshape(len(row_labels), -1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another part of the images."""
        self.counts += other.counts

    def compute(self) -> Scores:
        """Return the scores of all pixels so far."""
        right = np.diagonal(self.counts)
        truth = self.counts.sum(axis=1)
        iou = iou_of(right, truth, self.counts[:, :-1].sum(axis=0))
        accuracy = _percent_of(right, truth)
        pixels = int(truth.sum())
        # One class for all pixels: its IoU is its share, that of the other true classes is 0.
        classes_in_truth = np.count_nonzero(truth)
        constant = 100.0 * int(truth.max()) / (pixels * classes_in_truth) if pixels else np.nan
        weighted = (truth * np.nan_to_num(iou)).sum()
        return Scores(
            miou=float(mean_of_present(iou)),
            mean_accuracy=float(mean_of_present(accuracy)),
            frequency_weighted_iou=float(weighted) / pixels if pixels else float("nan"),
            pixel_accuracy=100.0 * int(right.sum()) / pixels if pixels else float("nan"),
            iou=iou,
            accuracy=accuracy,
            constant_miou=float(constant),
        )


def iou_of(
    right: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return intersection over union in percent from pixel counts, NaN where there is no pixel.

    Args:
        right: [..., C] pixels whose class is truly this and was predicted.
        truth: [..., C] pixels of the class in the truth.
        predicted: [..., C] counted pixels that were given the class.
    """
    return _percent_of(right, truth + predicted - right)


def mean_of_present(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean over the last axis of what is not NaN; NaN where all of it is.

    The sum runs over all classes with 0 for NaN, so that it is rounded alike whether one set of
    scores is averaged or many at once.
    """
    present = ~np.isnan(values)
    number = present.sum(axis=-1)
    total = np.where(present, values, 0.0).sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _percent_of(
    part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    shares = np.full(whole.shape, np.nan)
    np.divide(100.0 * part, whole, out=shares, where=whole > 0)
    return shares


def _numbered(labels: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the labels that occur and, for each element, the number of its label among them."""
    occurs = np.bincount(labels) > 0
    numbers = np.cumsum(occurs) - 1
    return np.flatnonzero(occurs), numbers[labels]
