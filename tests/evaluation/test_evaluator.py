"""The loop over a benchmark scores label maps, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.errors import DataError
from sseg_core.evaluation.evaluator import Rule, as_scored, evaluate, thresholded
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark, Example, LabelMap
from sseg_core.evaluation.rivals.rival import Prediction

TRUTHS = {
    "a": np.array([[-1, -1, 0, 1]], np.int16),
    "b": np.array([[0, VOID], [1, -1]], np.int16),
    "c": np.array([[1]], np.int16),
}


def _benchmark(*, has_background: bool = True, damaged: Sequence[str] = ()) -> Benchmark:
    shift = np.int16(not has_background)

    def image(key: str) -> RGBImage:
        if key in damaged:
            raise ImageError("corrupt", "is corrupt", key)
        return np.stack([(TRUTHS[key] + shift + 3).astype(np.uint8)] * 3, axis=-1)

    def truth(key: str) -> LabelMap:
        return np.where(TRUTHS[key] == VOID, np.int16(VOID), TRUTHS[key] + shift)

    names = ("cat", "dog") if has_background else ("sky", "cat", "dog")
    return Benchmark("b", names, has_background, tuple(TRUTHS), image, truth)


def _perfect(examples: Sequence[Example]) -> list[Prediction]:
    return [Prediction(example.truth) for example in examples]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_perfect_model_has_100_percent(batch_size: int) -> None:
    """With background scored it is label 0 and class i label i + 1, at any batch size."""
    result = evaluate(_benchmark(), _perfect, batch_size=batch_size)
    assert result.labels == ("background", "cat", "dog")
    assert (result.per_image.keys, dict(result.skipped)) == (("a", "b", "c"), {})
    scores = result.confusion.compute()
    assert (scores.miou, scores.pixel_accuracy) == (100.0, 100.0)
    assert result.confusion.counts.sum() == 8  # the void pixel is not among them
    assert result.per_image.boundary_f() == 100


def test_excluded_background_does_not_count() -> None:
    """A model that never says background is perfect when background pixels are left out."""

    def always_a_class(examples: Sequence[Example]) -> list[Prediction]:
        # What the model sees is the image, whatever became of the truth.
        return [
            Prediction(np.maximum(example.image[..., 0].astype(np.int16) - 3, 0))
            for example in examples
        ]

    result = evaluate(_benchmark(), always_a_class, Rule(exclude=True))
    assert result.labels == ("cat", "dog")
    assert result.confusion.counts.tolist() == [[2, 0, 0], [0, 3, 0]]
    assert evaluate(_benchmark(), always_a_class).confusion.compute().iou[0] == 0
    example = as_scored(_benchmark().load("a"), Rule(exclude=True))
    assert example.truth.tolist() == [[VOID, VOID, 0, 1]]


def test_without_background_a_pixel_without_a_class_is_wrong() -> None:
    """-1 on a benchmark where every pixel has a class lands in the last column."""

    def undecided(examples: Sequence[Example]) -> list[Prediction]:
        return [Prediction(np.full_like(example.truth, BACKGROUND)) for example in examples]

    result = evaluate(_benchmark(has_background=False), undecided)
    assert result.confusion.counts[:, -1].tolist() == [3, 2, 3]
    assert result.confusion.compute().miou == 0


def test_low_confidence_is_background() -> None:
    """A pixel below the threshold, and only below it, is background, whatever its class."""
    confidence = np.array([[0.5, 0.49, 1]], np.float32)
    prediction = Prediction(np.array([[1, 0, -1]], np.int16), confidence)
    assert thresholded(prediction, 0.5).tolist() == [[1, -1, -1]]
    assert thresholded(prediction, 0).tolist() == [[1, 0, -1]]
    assert thresholded(Prediction(prediction.label_map), 1).tolist() == [[1, 0, -1]]


def test_the_sweep_equals_an_evaluation_at_each_threshold() -> None:
    """One pass with a sweep tells the mIoU that each threshold would give by itself."""

    def unsure(examples: Sequence[Example]) -> list[Prediction]:
        predictions = []
        for example in examples:
            rng = np.random.default_rng(len(example.key) + example.truth.size)
            labels = rng.integers(-1, 2, example.truth.shape).astype(np.int16)
            predictions.append(
                Prediction(labels, rng.integers(0, 11, labels.shape).astype(np.float32) / 10)
            )
        return predictions

    swept = evaluate(_benchmark(), unsure, Rule(threshold=0.3, sweep=True))
    assert swept.sweep is not None
    thresholds, miou = swept.sweep.curve()
    for threshold, expected in zip(thresholds[::10], miou[::10], strict=True):
        result = evaluate(_benchmark(), unsure, Rule(threshold=threshold))
        assert result.confusion.compute().miou == pytest.approx(expected)


def test_parts_make_the_whole() -> None:
    """Processes that share the images count together what one counts."""
    whole, benchmark = evaluate(_benchmark(), _perfect, Rule(sweep=True)), _benchmark()
    parts = []
    for keys in (("a", "c"), ("b",)):
        part = Benchmark("b", benchmark.class_names, True, keys, benchmark.image, benchmark.truth)
        parts.append(evaluate(part, _perfect, Rule(sweep=True)))
    parts[0].merge(parts[1])
    assert np.array_equal(parts[0].confusion.counts, whole.confusion.counts)
    assert parts[0].per_image.ordered(benchmark.keys).keys == whole.per_image.keys


def test_damaged_examples_are_counted_and_left_out() -> None:
    """The others are scored."""
    result = evaluate(_benchmark(damaged=["b"]), _perfect)
    assert (result.per_image.keys, dict(result.skipped)) == (("a", "c"), {"corrupt": 1})


NAN = np.full((1, 4), np.nan, np.float32)
BAD: dict[str, Callable[[Example], Prediction]] = {
    r"of shape 4 x 1, not 1 x 4": lambda e: Prediction(e.truth.T),
    "of type float32, not of whole numbers": lambda e: Prediction(e.truth.astype(np.float32)),  # type: ignore[arg-type]
    "with labels beyond -1 to 1": lambda e: Prediction(e.truth + np.int16(1)),
    "whose confidence has another shape": lambda e: Prediction(e.truth, NAN.T),
    "whose confidence is not a finite number": lambda e: Prediction(e.truth, NAN),
}


@pytest.mark.parametrize("problem", BAD)
def test_what_is_no_label_map_is_refused(problem: str) -> None:
    """The error says what came, and for which image."""
    with pytest.raises(DataError, match=problem + ".* for the image a") as caught:
        evaluate(_benchmark(), lambda examples: [BAD[problem](e) for e in examples])
    assert "in the size of the image" in caught.value.hint
