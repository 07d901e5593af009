"""The curve over thresholds against thresholding and counting at each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sseg_core.evaluation.metrics.confusion import NO_CLASS, ConfusionMatrix
from sseg_core.evaluation.metrics.sweep import THRESHOLDS, ThresholdSweep

LABELS = 5
Image = tuple[np.ndarray, np.ndarray, np.ndarray]


def _images(seed: int, dtype: type = np.float32) -> list[Image]:
    """Maps with confidences, a third of them exactly on thresholds or next to one."""
    rng = np.random.default_rng(seed)
    images = []
    for size in ((17, 23), (8, 40), (30, 30)):
        truth = rng.integers(NO_CLASS, LABELS, size).astype(np.int16)
        guess = rng.integers(NO_CLASS, LABELS, size).astype(np.int16)
        label_map = np.where(rng.random(size) < 0.5, truth, guess)
        confidence = rng.random(size).astype(dtype)
        exact = rng.choice(np.array(THRESHOLDS, dtype), size)
        confidence = np.where(rng.random(size) < 0.2, exact, confidence)
        beside = np.nextafter(exact, dtype(rng.choice([-1, 2])))
        confidence = np.where(rng.random(size) < 0.1, beside, confidence).clip(0, 1)
        images.append((label_map, confidence.astype(dtype), truth))
    return images


def _swept(images: list[Image]) -> ThresholdSweep:
    sweep = ThresholdSweep(LABELS)
    for image in images:
        sweep.update(*image)
    return sweep


def _at(images: list[Image], threshold: float) -> float:
    matrix = ConfusionMatrix(LABELS)
    for label_map, confidence, truth in images:
        low = confidence < threshold  # as the evaluator does
        matrix.update(np.where(low, 0, label_map), truth)
    return matrix.compute().miou


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_that_of_101_passes(seed: int, dtype: type) -> None:
    """Every point of it to the last bit, confidences on a threshold included."""
    images = _images(seed, dtype)
    thresholds, miou = _swept(images).curve()
    assert miou.tolist() == [_at(images, threshold) for threshold in thresholds]


def test_the_thresholds_are_hundredths_from_0_to_1() -> None:
    """A hundred steps, both ends included, each the number that a user would type."""
    assert len(THRESHOLDS) == 101
    assert THRESHOLDS[0] == 0.0
    assert THRESHOLDS[29] == 0.29
    assert THRESHOLDS[-1] == 1.0


def test_a_confidence_on_the_threshold_is_not_below_it() -> None:
    """0.7 is kept at 0.70 and background at 0.71, also in 32 bits, where 0.7 is less than 0.7."""
    one = np.ones((1, 1), np.int16)
    sweep = _swept([(one, np.full((1, 1), 0.7, np.float32), one)])
    thresholds, miou = sweep.curve()
    assert [t for t, score in zip(thresholds, miou, strict=True) if score == 100] == [
        k / 100 for k in range(71)
    ]


def test_the_best_threshold_is_the_lowest_of_the_best() -> None:
    """Where several are equally good."""
    label_map = np.array([[1, 1]], np.int16)
    truth = np.array([[1, 0]], np.int16)
    confidence = np.array([[0.805, 0.301]], np.float32)
    assert _swept([(label_map, confidence, truth)]).best() == (0.31, 100.0)


def test_the_best_is_the_top_of_the_curve() -> None:
    """And scoring with that threshold gives that score."""
    images = _images(9)
    threshold, score = _swept(images).best()
    assert score == max(_swept(images).curve()[1]) == _at(images, threshold)


def test_parts_that_are_merged_give_the_same_curve() -> None:
    """Shared out among processes, in any order."""
    images = _images(5)
    merged = _swept(images[2:])
    merged.merge(_swept(images[:2]))
    assert merged.curve()[1].tolist() == _swept(images).curve()[1].tolist()


def test_without_pixels_there_is_no_best() -> None:
    """NaN rather than a threshold that nothing speaks for."""
    assert all(map(math.isnan, ThresholdSweep(LABELS).best()))
    void = np.full((2, 2), NO_CLASS, np.int16)
    sweep = _swept([(void, np.zeros((2, 2), np.float32), void)])
    assert all(map(math.isnan, sweep.best()))
