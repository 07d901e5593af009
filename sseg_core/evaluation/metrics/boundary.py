"""Boundary F: how well the borders in a label map lie on the true ones, whatever the classes.

Borders are drawn as DAVIS does (Perazzi et al., CVPR 2016): a pixel is on a border where its label
differs from that of its right, lower or lower right neighbour, and it is found where the other map
has a border within the tolerance. The tolerance is that of BSDS (Martin et al., TPAMI 2004): 0.75 %
of the image diagonal, 4.7 pixels in a photo of 500 x 375.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.metrics.confusion import NO_CLASS

TOLERANCE = 0.0075
"""Share of the image diagonal; at least 1.5 pixels, the eight neighbours (our choice)."""

_Mask = npt.NDArray[np.bool_]


def boundary_f(prediction: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> float:
    """Return the harmonic mean of precision and recall of the border pixels.

    Void may be a contour that is drawn between two regions, as VOC does, or a region that nobody
    labelled. Where void is no deeper than the tolerance, it takes the label of the nearest pixel
    that counts, so that the border runs along the middle of the contour. Deeper void does not
    count, and neither does a border within the tolerance of it, for where it lies is not known.

    Args:
        prediction: [H, W] any labels.
        truth: [H, W] labels, `NO_CLASS` where none counts.

    Returns:
        0 to 1; NaN where neither map has a border that counts.
    """
    assert prediction.shape == truth.shape, (prediction.shape, truth.shape)
    radius = max(1.5, TOLERANCE * math.hypot(*truth.shape))
    void = truth == NO_CLASS
    predicted = _borders(prediction)
    if void.any():
        contour = void & _dilated(~void, radius)
        deep = void & ~contour
        true = _borders(_with_nearest(truth, contour, radius))
    else:
        deep = void
        true = _borders(truth)
    counted_predicted, counted_true = predicted, true
    if deep.any():
        region = _dilated(deep, radius)
        true &= ~region  # the edge of what is not labelled is no border
        counted = ~_dilated(region, radius)
        counted_predicted, counted_true = predicted & counted, true & counted
    num_predicted = np.count_nonzero(counted_predicted)
    num_true = np.count_nonzero(counted_true)
    if not num_predicted or not num_true:
        return 0.0 if num_predicted or num_true else math.nan
    precision = np.count_nonzero(counted_predicted & _dilated(true, radius)) / num_predicted
    recall = np.count_nonzero(counted_true & _dilated(predicted, radius)) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _borders(labels: npt.NDArray[np.integer]) -> _Mask:
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] = labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return borders


def _dilated(mask: _Mask, radius: float) -> _Mask:
    """Return where `mask` is set within a Euclidean distance of `radius` pixels."""
    H = len(mask)
    dilated = np.zeros_like(mask)
    widened, width = mask.copy(), 0
    # From the outermost rows of the disc inwards, its rows grow wider.
    for dy in range(min(int(radius), H - 1), -1, -1):
        while width < math.isqrt(int(radius * radius - dy * dy)):
            width += 1
            widened[:, width:] |= mask[:, :-width]
            widened[:, :-width] |= mask[:, width:]
        dilated[dy:] |= widened[: H - dy]
        dilated[: H - dy] |= widened[dy:]
    return dilated


def _with_nearest(
    truth: npt.NDArray[np.integer], holes: _Mask, radius: float
) -> npt.NDArray[np.integer]:
    """Return `truth` where each of the `holes` has the label of the nearest pixel that counts."""
    reach = int(radius)
    steps = range(-reach, reach + 1)
    offsets = sorted((dy * dy + dx * dx, dy, dx) for dy in steps for dx in steps)
    padded = np.pad(truth, reach, constant_values=NO_CLASS)
    labels = padded.ravel()
    filled = labels.copy()
    left = np.flatnonzero(np.pad(holes, reach))
    for _, dy, dx in offsets:
        if not left.size:
            break
        found = labels[left + (dy * padded.shape[1] + dx)]
        has_label = found != NO_CLASS
        filled[left[has_label]] = found[has_label]
        left = left[~has_label]
    whole = filled.reshape(padded.shape)
    return whole[reach : reach + truth.shape[0], reach : reach + truth.shape[1]]
