"""The loop over a benchmark scores label maps, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.evaluator import LabelMap, evaluate, model_predictor
from sseg_core.evaluation.examples import Benchmark, Example

TRUTHS = {
    "a": np.array([[0, 0, 1, 2]], np.uint8),
    "b": np.array([[1, 255], [2, 0]], np.uint8),
    "c": np.array([[2]], np.uint8),
}


def _benchmark(*, has_background: bool, damaged: Sequence[str] = ()) -> Benchmark:
    def load(key: str) -> Example:
        if key in damaged:
            raise ImageError("corrupt", "is corrupt", key)
        truth = TRUTHS[key]
        return Example(key, np.stack([truth] * 3, axis=-1), truth)

    names = ("cat", "dog") if has_background else ("sky", "cat", "dog")
    return Benchmark("b", names, has_background, tuple(TRUTHS), load)


def _seen_label(images: Sequence[np.ndarray], names: Sequence[str]) -> list[LabelMap]:
    """A perfect model of two classes: the image's red is its truth, background the rest."""
    assert tuple(names) == ("cat", "dog")
    return [np.where(i[..., 0] == 255, 0, i[..., 0].astype(np.int16) - 1) for i in images]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_perfect_model_has_100_percent(batch_size: int) -> None:
    """With background scored, -1 is label 0 and class i label i + 1, at any batch size."""
    benchmark = _benchmark(has_background=True)
    predict = model_predictor(_seen_label, benchmark, exclude_background=False)
    result = evaluate(benchmark, predict, batch_size=batch_size)
    assert result.labels == ("background", "cat", "dog")
    assert (result.images, dict(result.skipped)) == (3, {})
    scores = result.confusion.compute()
    assert (scores.miou, scores.pixel_accuracy) == (100.0, 100.0)
    assert result.confusion.counts.sum() == 8  # the void pixel is not among them
    assert result.boundary.compute() == 100


def test_excluded_background_does_not_count() -> None:
    """A model that never says background is perfect when background pixels are left out."""

    def always_a_class(images: Sequence[np.ndarray], names: Sequence[str]) -> list[LabelMap]:
        return [np.maximum(label_map, 0) for label_map in _seen_label(images, names)]

    benchmark = _benchmark(has_background=True)
    predict = model_predictor(always_a_class, benchmark, exclude_background=True)
    result = evaluate(benchmark, predict, exclude_background=True)
    assert result.labels == ("cat", "dog")
    assert result.confusion.counts.tolist() == [[2, 0, 0], [0, 3, 0]]
    with_background = model_predictor(always_a_class, benchmark, exclude_background=False)
    assert evaluate(benchmark, with_background).confusion.compute().iou[0] == 0


def test_without_background_a_pixel_without_a_class_is_wrong() -> None:
    """-1 on a benchmark where every pixel has a class lands in the last column."""

    def undecided(images: Sequence[np.ndarray], names: Sequence[str]) -> list[LabelMap]:
        return [np.full(image.shape[:2], -1, np.int16) for image in images]

    benchmark = _benchmark(has_background=False)
    result = evaluate(benchmark, model_predictor(undecided, benchmark, exclude_background=False))
    assert result.confusion.counts[:, -1].tolist() == [3, 2, 3]
    assert result.confusion.compute().miou == 0


def test_damaged_examples_are_counted_and_left_out() -> None:
    """The others are scored; if all are damaged there is no score."""
    benchmark = _benchmark(has_background=True, damaged=["b"])
    predict = model_predictor(_seen_label, benchmark, exclude_background=False)
    result = evaluate(benchmark, predict)
    assert (result.images, dict(result.skipped)) == (2, {"corrupt": 1})
    nothing_left = _benchmark(has_background=True, damaged=tuple(TRUTHS))
    with pytest.raises(DataError, match="No image of b"):
        evaluate(nothing_left, predict)
