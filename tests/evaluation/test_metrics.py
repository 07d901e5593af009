"""Scores from confusion counts, against plain loops and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from sseg_core.evaluation.metrics import NO_CLASS, ConfusionMatrix


def _random_maps(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (37, 41)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    prediction = np.where(rng.random(truth.shape) < 0.5, truth % classes, 0).astype(np.int16)
    prediction[rng.random(truth.shape) < 0.1] = NO_CLASS
    return prediction, truth


@pytest.mark.parametrize("seed", range(3))
def test_iou_equals_a_plain_loop(seed: int) -> None:
    """IoU per class is intersection over union of the counted pixels, over all images."""
    matrix = ConfusionMatrix(5)
    pairs = [_random_maps(seed * 10 + i, 5) for i in range(3)]
    for prediction, truth in pairs:
        matrix.update(prediction, truth)
    for c, iou in enumerate(matrix.compute().iou):
        intersection = union = 0
        for prediction, truth in pairs:
            for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
                if t != 255:
                    intersection += p == c and t == c
                    union += p == c or t == c
        assert iou == pytest.approx(100 * intersection / union)


def test_scores_equal_scikit_learn() -> None:
    """Counts, mIoU and pixel accuracy are scikit-learn's on the pixels that count."""
    prediction, truth = _random_maps(7, 6)
    matrix = ConfusionMatrix(6)
    matrix.update(prediction, truth)
    scores = matrix.compute()
    p, t = prediction[truth != 255], truth[truth != 255].astype(np.int16)
    labels = list(range(6))
    expected = confusion_matrix(t, p, labels=[*labels, NO_CLASS])[:6]
    assert np.array_equal(matrix.counts, expected)
    jaccard = jaccard_score(t, p, labels=labels, average="macro")
    assert scores.miou == pytest.approx(100 * jaccard)
    assert scores.pixel_accuracy == pytest.approx(100 * accuracy_score(t, p))


def test_void_pixels_count_nothing() -> None:
    """Whatever is predicted on label 255 leaves the scores as they are."""
    truth = np.array([[0, 1, 255, 255]], dtype=np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 1, 2, NO_CLASS]]), truth)
    scores = matrix.compute()
    assert (scores.miou, scores.pixel_accuracy) == (100.0, 100.0)
    assert math.isnan(scores.iou[2])


def test_a_class_absent_from_truth_and_prediction_is_left_out_of_the_mean() -> None:
    """Absent from both: NaN, not in the mean. Predicted but not true: 0, in the mean."""
    truth = np.zeros((1, 4), dtype=np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 0, 0, 1]]), truth)
    scores = matrix.compute()
    assert scores.iou[:2].tolist() == [75.0, 0.0]
    assert math.isnan(scores.iou[2])
    assert scores.miou == 37.5
    assert scores.mean_over([0, 2]) == 75.0
    assert math.isnan(scores.mean_over([2]))


def test_a_pixel_without_a_class_is_wrong() -> None:
    """It lowers the IoU of the true class and the accuracy, and is no class's false alarm."""
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0, NO_CLASS, 1, 1]]), np.array([[0, 0, 1, 1]]))
    scores = matrix.compute()
    assert scores.iou.tolist() == [50.0, 100.0]
    assert scores.pixel_accuracy == 75.0


def test_an_unsigned_prediction_is_not_confused_by_wrap_around() -> None:
    """Counts of uint8 labels with many classes are exact: nothing is computed in uint8."""
    labels = np.arange(200, dtype=np.uint8)[None]
    matrix = ConfusionMatrix(200)
    matrix.update(labels, labels)
    assert matrix.compute().miou == 100.0


def test_the_constant_score_is_that_of_the_best_constant_prediction() -> None:
    """It equals the mIoU of really predicting one class everywhere, for the best class."""
    prediction, truth = _random_maps(3, 5)
    truth[truth == 4] = 255
    asked = ConfusionMatrix(5)
    asked.update(prediction, truth)
    scores = []
    for c in range(4):
        constant = ConfusionMatrix(5)
        constant.update(np.full_like(prediction, c), truth)
        scores.append(constant.compute().miou)
    assert asked.compute().constant_miou == pytest.approx(max(scores))


def test_without_pixels_there_is_no_score() -> None:
    """Nothing counted gives NaN rather than 0 or a warning."""
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0]]), np.array([[255]]))
    scores = matrix.compute()
    assert math.isnan(scores.miou)
    assert math.isnan(scores.pixel_accuracy)


def test_counts_are_exact_beyond_float_and_int32() -> None:
    """Counts are int64: three billion pixels more are not lost."""
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 3_000_000_000
    matrix.update(np.array([[0]]), np.array([[0]]))
    assert matrix.counts.dtype == np.int64
    assert matrix.counts[0, 0] == 3_000_000_001
