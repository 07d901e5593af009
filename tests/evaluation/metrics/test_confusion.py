"""Scores from confusion counts, against plain loops and scikit-learn."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sseg_core.evaluation.metrics.confusion import NO_CLASS, ConfusionMatrix

VOID = 255
CLASSES = 5
TRUTHS = st.sampled_from([*range(CLASSES), VOID])
PREDICTIONS = st.integers(NO_CLASS, CLASSES - 1)


def _random_maps(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (37, 41)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = VOID
    prediction = np.where(rng.random(truth.shape) < 0.5, truth % classes, 0).astype(np.int16)
    prediction[rng.random(truth.shape) < 0.1] = NO_CLASS
    return prediction, truth


def _plain(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> dict[str, object]:
    """The definitions, pixel by pixel."""
    pixels = [
        (p, t)
        for prediction, truth in pairs
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True)
        if t not in {VOID, NO_CLASS}
    ]
    iou, accuracy, weighted = [], [], []
    for c in range(classes):
        right = sum(p == c and t == c for p, t in pixels)
        union = sum(c in {p, t} for p, t in pixels)
        true = sum(t == c for _, t in pixels)
        iou.append(100 * right / union if union else math.nan)
        accuracy.append(100 * right / true if true else math.nan)
        weighted.append(100 * right / union * true if union else 0)

    def mean(values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    number = len(pixels)
    return {
        "iou": iou,
        "accuracy": accuracy,
        "miou": mean(iou),
        "mean_accuracy": mean(accuracy),
        "frequency_weighted_iou": sum(weighted) / number if number else math.nan,
        "pixel_accuracy": 100 * sum(p == t for p, t in pixels) / number if number else math.nan,
    }


@settings(deadline=None, database=None)
@given(st.data())
def test_every_score_equals_a_plain_loop(data: st.DataObject) -> None:
    """Over any maps of any images, label 255 and pixels without a class included."""
    matrix, pairs = ConfusionMatrix(CLASSES), []
    for _ in range(data.draw(st.integers(0, 3))):
        shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
        prediction = data.draw(arrays(np.int16, shape, elements=PREDICTIONS))
        truth = data.draw(arrays(np.uint8, shape, elements=TRUTHS))
        matrix.update(prediction, truth, VOID)
        pairs.append((prediction, truth))
    scores = matrix.compute()
    for name, expected in _plain(pairs, CLASSES).items():
        assert getattr(scores, name) == pytest.approx(expected, nan_ok=True), name


@settings(deadline=None, database=None)
@given(
    arrays(np.int64, (3, 6, 7), elements=TRUTHS), arrays(np.int64, (3, 6, 7), elements=PREDICTIONS)
)
def test_classes_score_as_in_torchmetrics(truth: np.ndarray, prediction: np.ndarray) -> None:
    """IoU and accuracy of every class that has one; torchmetrics gives 0 to those that have none.

    That is why its means are not compared: a class that was predicted on ignored pixels alone
    enters them as 0.
    """
    matrix = ConfusionMatrix(CLASSES)
    for one_prediction, one_truth in zip(prediction, truth, strict=True):
        matrix.update(one_prediction, one_truth, VOID)
    scores = matrix.compute()
    given_class = torch.from_numpy(np.where(prediction < 0, CLASSES, prediction))
    for metric, ours in (
        (MulticlassJaccardIndex, scores.iou),
        (MulticlassAccuracy, scores.accuracy),
    ):
        theirs = metric(num_classes=CLASSES + 1, average="none", ignore_index=VOID)
        values = 100 * theirs(given_class, torch.from_numpy(truth)).numpy()[:CLASSES]
        known = ~np.isnan(ours)
        assert values[known] == pytest.approx(ours[known], rel=1e-6)
        assert not values[~known].any()


def test_means_score_as_in_torchmetrics() -> None:
    """Where every class is there, mIoU, mean and pixel accuracy are the same too."""
    prediction, truth = _random_maps(2, 6)
    prediction = np.maximum(prediction, 0)
    matrix = ConfusionMatrix(6)
    matrix.update(prediction, truth, VOID)
    scores = matrix.compute()
    for metric, average, ours in (
        (MulticlassJaccardIndex, "macro", scores.miou),
        (MulticlassJaccardIndex, "weighted", scores.frequency_weighted_iou),
        (MulticlassAccuracy, "macro", scores.mean_accuracy),
        (MulticlassAccuracy, "micro", scores.pixel_accuracy),
    ):
        theirs = metric(num_classes=6, average=average, ignore_index=VOID)
        maps = (torch.from_numpy(labels.astype(np.int64)) for labels in (prediction, truth))
        assert 100 * float(theirs(*maps)) == pytest.approx(ours, rel=1e-6), (metric, average)


def test_scores_equal_scikit_learn() -> None:
    """Counts, mIoU and pixel accuracy are scikit-learn's on the pixels that count."""
    prediction, truth = _random_maps(7, 6)
    matrix = ConfusionMatrix(6)
    matrix.update(prediction, truth, VOID)
    scores = matrix.compute()
    p, t = prediction[truth != VOID], truth[truth != VOID].astype(np.int16)
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
    matrix.update(np.array([[0, 1, 2, NO_CLASS]]), truth, VOID)
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
    truth[truth == 4] = VOID
    asked = ConfusionMatrix(5)
    asked.update(prediction, truth, VOID)
    scores = []
    for c in range(4):
        constant = ConfusionMatrix(5)
        constant.update(np.full_like(prediction, c), truth, VOID)
        scores.append(constant.compute().miou)
    assert asked.compute().constant_miou == pytest.approx(max(scores))


def test_without_pixels_there_is_no_score() -> None:
    """Nothing counted gives NaN rather than 0 or a warning."""
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0]]), np.array([[NO_CLASS]]))
    scores = matrix.compute()
    assert math.isnan(scores.miou)
    assert math.isnan(scores.pixel_accuracy)
    assert math.isnan(scores.mean_accuracy)
    assert math.isnan(scores.frequency_weighted_iou)


def test_counts_are_exact_beyond_float_and_int32() -> None:
    """Counts are int64: three billion pixels more are not lost."""
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 3_000_000_000
    matrix.update(np.array([[0]]), np.array([[0]]))
    assert matrix.counts.dtype == np.int64
    assert matrix.counts[0, 0] == 3_000_000_001


def test_parts_that_are_merged_count_as_the_whole() -> None:
    """Shared out among processes, the images give the identical matrix."""
    pairs = [_random_maps(i, 5) for i in range(7)]
    whole = ConfusionMatrix(5)
    parts = [ConfusionMatrix(5) for _ in range(3)]
    for number, (prediction, truth) in enumerate(pairs):
        whole.update(prediction, truth, VOID)
        parts[number % 3].update(prediction, truth, VOID)
    for part in parts[1:]:
        parts[0].merge(part)
    assert np.array_equal(parts[0].counts, whole.counts)


def test_an_image_costs_no_table_of_all_classes() -> None:
    """With 1204 labels, an image that shows five of them takes less than a twentieth of 11 MB."""
    truth = np.repeat(np.array([0, 7, 600, 1202, 1203], np.int16), 500).reshape(50, 50)
    prediction = np.where(truth == 7, 1203, truth).astype(np.int16)
    matrix = ConfusionMatrix(1204)
    matrix.update(prediction, truth)
    tracemalloc.start()
    matrix.update(prediction, truth)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 11_000_000 / 20
    assert matrix.counts.sum() == 2 * truth.size
    assert matrix.counts[7, 1203] == 1000
    assert matrix.counts[600, 600] == 1000
