"""mIoU at every background threshold, counted in one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.metrics.confusion import iou_of, mean_of_present

THRESHOLDS = tuple(k / 100 for k in range(101))
"""0.00 to 1.00 (our choice)."""

_BINS = len(THRESHOLDS) + 1


class ThresholdSweep:
    """Scores at each of `THRESHOLDS`, label 0 being background.

    A pixel is background where its confidence is below the threshold, whatever its label was, and
    where its label is background already. Pixels are counted by label and by the number of
    thresholds that they reach: what each threshold leaves is then a sum over the counts, equal to
    that of thresholding and counting anew. Memory grows with labels times thresholds.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        # The last row is of pixels that were given no class, until a threshold gives them one.
        self._predicted = np.zeros((num_labels + 1, _BINS), np.int64)
        self._right = np.zeros((num_labels, _BINS), np.int64)
        self._true_background = np.zeros(_BINS, np.int64)
        self._truth = np.zeros(num_labels, np.int64)

    def update(
        self,
        label_map: npt.NDArray[np.integer],
        confidence: npt.NDArray[np.floating],
        truth: npt.NDArray[np.integer],
    ) -> None:
        """Add one image.

        Args:
            label_map: [H, W] label index before any threshold, negative for no class.
            confidence: [H, W] of the label, in [0, 1].
            truth: [H, W] label index, negative for a pixel that does not count.
        """
        assert label_map.shape == truth.shape == confidence.shape
        counted = truth >= 0
        true = truth[counted].astype(np.intp)
        labels = label_map[counted].astype(np.intp)
        reached = _thresholds_reached(confidence[counted])
        labels[labels < 0] = self.num_labels
        cells = labels * _BINS + reached
        self._predicted += _histogram(cells, self._predicted)
        self._right += _histogram(cells[labels == true], self._right)
        self._true_background += _histogram(
            reached[(true == 0) & (labels != 0)], self._true_background
        )
        self._truth += _histogram(true, self._truth)

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of another part of the images."""
        self._predicted += other._predicted
        self._right += other._right
        self._true_background += other._true_background
        self._truth += other._truth

    def as_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the counts as arrays, for `from_arrays`."""
        return {
            "predicted": self._predicted,
            "right": self._right,
            "true_background": self._true_background,
            "truth": self._truth,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.int64]]) -> ThresholdSweep:
        """Return the counts that `as_arrays` made.

        Raises:
            KeyError: an array is missing.
        """
        sweep = cls(len(arrays["truth"]))
        sweep._predicted, sweep._right = arrays["predicted"], arrays["right"]
        sweep._true_background, sweep._truth = arrays["true_background"], arrays["truth"]
        return sweep

    def curve(self) -> tuple[tuple[float, ...], npt.NDArray[np.float64]]:
        """Return the thresholds and the mIoU in percent at each; NaN without pixels."""
        # A pixel that reaches n thresholds is below all but the first n.
        below = np.cumsum(self._predicted, axis=1)[:, :-1]
        predicted = self._predicted.sum(axis=1, keepdims=True) - below
        right = self._right.sum(axis=1, keepdims=True) - np.cumsum(self._right, axis=1)[:, :-1]
        predicted[0] = self._predicted[0].sum() + below[1:].sum(axis=0)
        right[0] = self._right[0].sum() + np.cumsum(self._true_background)[:-1]
        iou = iou_of(
            np.ascontiguousarray(right.T),
            np.broadcast_to(self._truth, right.T.shape),
            np.ascontiguousarray(predicted[:-1].T),
        )
        return THRESHOLDS, mean_of_present(iou)

    def best(self) -> tuple[float, float]:
        """Return the threshold of the highest mIoU (the lowest of several) and that mIoU."""
        thresholds, miou = self.curve()
        if np.isnan(miou).all():
            return math.nan, math.nan
        index = int(np.nanargmax(miou))
        return thresholds[index], float(miou[index])


def _thresholds_reached(confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Return how many of `THRESHOLDS` each confidence is not below.

    They are compared in the confidence's own type, as NumPy does with a plain number: 0.7 is
    below none of 0.00 to 0.70, also in 32 bits.
    """
    thresholds = np.array(THRESHOLDS, confidence.dtype)
    thresholds[0] = -np.inf  # a threshold of 0 leaves every pixel as it is
    return np.searchsorted(thresholds, confidence, side="right")


def _histogram(cells: npt.NDArray[np.intp], like: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.bincount(cells, minlength=like.size).reshape(like.shape)
