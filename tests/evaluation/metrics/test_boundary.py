"""Boundary F against slow references, and by numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sseg_core.evaluation.metrics.boundary import boundary_f
from sseg_core.evaluation.metrics.confusion import NO_CLASS


def _borders(labels: np.ndarray) -> np.ndarray:
    here = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = here[:-1, 1:], here[1:, :-1], here[1:, 1:]
    differs = (right != labels) | (below != labels)
    differs[:-1, :-1] |= (diagonal != labels)[:-1, :-1]
    return differs


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest that is set."""
    return distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def _reference(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The definition, in distances rather than dilations, with a plain search for the nearest."""
    radius = max(1.5, 0.0075 * math.hypot(*truth.shape))
    void = truth == NO_CLASS
    filled, reach = truth.copy(), int(radius)
    for y, x in np.argwhere(void):
        top, left = max(0, y - reach), max(0, x - reach)
        known = np.argwhere(~void[top : y + reach + 1, left : x + reach + 1])
        squares = ((known - (y - top, x - left)) ** 2).sum(1)
        if len(known) and squares.min() <= radius * radius:
            dy, dx = known[squares.argmin()]
            filled[y, x] = truth[top + dy, left + dx]
    region = _distance(void & (_distance(~void) > radius)) <= radius
    true, predicted = _borders(filled) & ~region, _borders(prediction)
    counts = _distance(region) > radius
    found = (_distance(true) <= radius)[predicted & counts]
    recalled = (_distance(predicted) <= radius)[true & counts]
    if not found.size and not recalled.size:
        return math.nan
    if not found.any() or not recalled.any():
        return 0.0
    return 2 / (1 / found.mean() + 1 / recalled.mean())


def _blobs(rng: np.random.Generator, size: tuple[int, int], smooth: float) -> np.ndarray:
    fields = gaussian_filter(rng.normal(size=(4, *size)), (0, smooth, smooth))
    return fields.argmax(0).astype(np.int16)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(40, 57), (230, 250), (1, 30), (3, 2)])
def test_it_equals_the_reference(seed: int, size: tuple[int, int]) -> None:
    """Random regions, with void contours, void regions, both or none."""
    rng = np.random.default_rng([seed, *size])
    truth, prediction = _blobs(rng, size, 6), _blobs(rng, size, 4).astype(np.int16) - 1
    prediction = np.where(rng.random() < 0.7, truth, prediction).astype(np.int16)
    prediction[: size[0] // 2] = np.roll(prediction, 1, axis=1)[: size[0] // 2]
    if seed % 2:
        truth[_borders(truth)] = NO_CLASS
    if seed % 3:
        truth[_blobs(rng, size, 8) == 0] = NO_CLASS
    assert boundary_f(prediction, truth) == pytest.approx(
        _reference(prediction, truth), nan_ok=True
    )


def _halves(column: int, *, size: int = 200) -> np.ndarray:
    labels = np.zeros((size, size), np.int16)
    labels[:, column:] = 1
    return labels


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (2, 1), (-2, 1), (3, 0), (-3, 0)])
def test_the_tolerance_is_three_quarters_of_a_percent_of_the_diagonal(
    shift: int, expected: float
) -> None:
    """2.12 pixels at 200 x 200: a border two pixels off is found, one three pixels off is not."""
    assert boundary_f(_halves(100 + shift), _halves(100)) == expected


def test_half_of_the_borders_right_is_two_thirds() -> None:
    """Precision 1/2 and recall 1 have the harmonic mean 2/3; so has the reverse."""
    two = _halves(60) + _halves(140)
    assert boundary_f(two, _halves(60)) == pytest.approx(2 / 3)
    assert boundary_f(_halves(60), two) == pytest.approx(2 / 3)


def test_labels_do_not_matter() -> None:
    """Only where they change does."""
    truth = _halves(70)
    renamed = np.where(truth == 0, -1, 7).astype(np.int16)
    assert boundary_f(renamed, truth) == 1


def test_a_drawn_contour_is_no_region() -> None:
    """Void of five pixels along a border, as VOC draws it: the border is in its middle."""
    truth = _halves(200, size=400)
    truth[:, 198:203] = NO_CLASS
    assert boundary_f(_halves(200, size=400), truth) == 1
    assert boundary_f(_halves(203, size=400), truth) == 1
    assert boundary_f(_halves(207, size=400), truth) == 0


def test_what_is_not_labelled_does_not_count() -> None:
    """Neither a border inside void nor one along its edge, which may be any object's."""
    truth = np.zeros((200, 200), np.int16)
    truth[:, 100:] = NO_CLASS
    for column in (99, 100, 102, 150):
        assert math.isnan(boundary_f(_halves(column), truth))
    assert boundary_f(_halves(98), truth) == 0
    assert math.isnan(boundary_f(_halves(90), np.full((200, 200), NO_CLASS, np.int16)))


def test_no_border_at_all_is_no_score() -> None:
    """One label in both maps: nothing to find. A border in one of them only: nothing found."""
    plain = np.zeros((20, 20), np.int16)
    assert math.isnan(boundary_f(plain, plain))
    assert boundary_f(plain, _halves(10, size=20)) == 0
    assert boundary_f(_halves(10, size=20), plain) == 0
