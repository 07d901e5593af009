"""The loop over a benchmark; it knows a model only by its predictions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sseg_core.data.images import ImageError
from sseg_core.errors import DataError, printable
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark, Example, LabelMap
from sseg_core.evaluation.metrics.boundary import boundary_f
from sseg_core.evaluation.metrics.confusion import NO_CLASS, ConfusionMatrix
from sseg_core.evaluation.metrics.per_image import PerImage
from sseg_core.evaluation.metrics.sweep import ThresholdSweep
from sseg_core.evaluation.rivals.rival import Prediction, Predictor
from sseg_core.tracking import SILENT, Progress


@dataclass
class Evaluation:
    """What a pass over a benchmark counted.

    Attributes:
        labels: the scored labels, background first where it is scored.
        confusion: over all images, in these labels.
        per_image: the same by image, and the boundary F of each.
        sweep: the counts at every threshold; None where none was asked for or the model has no
            confidence.
        confident: the model tells how sure it is, so that a threshold has an effect.
        seconds: time in the predictor; reading images and counting are not in it.
        skipped: images that could not be read, by reason.
    """

    labels: tuple[str, ...]
    confusion: ConfusionMatrix
    per_image: PerImage
    sweep: ThresholdSweep | None = None
    confident: bool = False
    seconds: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Evaluation) -> None:
        """Add what another process counted on another part of the benchmark, at the same time."""
        self.confusion.merge(other.confusion)
        self.per_image.merge(other.per_image)
        if self.sweep is None:
            self.sweep = other.sweep
        elif other.sweep is not None:
            self.sweep.merge(other.sweep)
        self.confident |= other.confident
        self.seconds = max(self.seconds, other.seconds)
        self.skipped += other.skipped


@dataclass(frozen=True)
class Rule:
    """What the evaluator does with background.

    Attributes:
        exclude: true background does not count (S-Seg Table 4).
        threshold: pixels of lower confidence are background.
        sweep: count at every other threshold too.
    """

    exclude: bool = False
    threshold: float = 0.0
    sweep: bool = False


def scored_labels(benchmark: Benchmark, *, exclude_background: bool) -> tuple[str, ...]:
    """Return the names of the labels that count, in the order of their indices."""
    if benchmark.has_background and not exclude_background:
        return ("background", *benchmark.class_names)
    return benchmark.class_names


def evaluate(
    benchmark: Benchmark,
    predict: Predictor,
    rule: Rule = Rule(),
    *,
    batch_size: int = 8,
    start: Evaluation | None = None,
    keep: Callable[[Evaluation], None] | None = None,
    task: str = "eval",
    progress: Progress = SILENT,
) -> Evaluation:
    """Score `predict` on the examples of `benchmark`.

    Args:
        benchmark: the examples.
        predict: sees `batch_size` examples at a time.
        rule: for background.
        batch_size: examples at a time.
        start: what an interrupted evaluation had counted; its images are not scored again.
        keep: is told of the counts after every batch.
        task: what the progress is called.
        progress: is told of every image.

    Raises:
        DataError: the predictor returns what is no label map of the image.
    """
    labels = scored_labels(benchmark, exclude_background=rule.exclude)
    first = len(labels) - len(benchmark.class_names)  # label index of the first class
    result = start or Evaluation(labels, ConfusionMatrix(len(labels)), PerImage(len(labels)))
    done = frozenset(result.per_image.keys)
    left = replace(benchmark, keys=tuple(key for key in benchmark.keys if key not in done))
    progress.start(task, len(benchmark), "images")
    if done:
        progress.advance(len(done))
    examples = _readable(left, result.skipped, progress)
    for batch in _batches((as_scored(example, rule) for example in examples), batch_size):
        begin = time.perf_counter()
        predictions = predict(batch)
        result.seconds += time.perf_counter() - begin
        for example, prediction in zip(batch, predictions, strict=True):
            check_prediction(prediction, example, len(benchmark.class_names))
            truth = _as_labels(example.truth, first)
            result.confident |= prediction.confidence is not None
            if rule.sweep and prediction.confidence is not None:
                result.sweep = result.sweep or ThresholdSweep(len(labels))
                result.sweep.update(
                    _as_labels(prediction.label_map, first), prediction.confidence, truth
                )
            predicted = _as_labels(thresholded(prediction, rule.threshold), first)
            result.confusion.update(predicted, truth)
            result.per_image.add(example.key, predicted, truth, boundary_f(predicted, truth))
        if keep is not None:
            keep(result)
        progress.advance(len(batch), miou=f"{result.confusion.compute().miou:.1f}")
    return result


def as_scored(example: Example, rule: Rule) -> Example:
    """Return the example with its background as void where that does not count."""
    if not rule.exclude:
        return example
    truth = np.where(example.truth == BACKGROUND, np.int16(VOID), example.truth)
    return replace(example, truth=truth)


def thresholded(prediction: Prediction, threshold: float) -> LabelMap:
    """Return the label map with background where the confidence is below the threshold."""
    if prediction.confidence is None or threshold <= 0:
        return prediction.label_map
    low = prediction.confidence < threshold
    return np.where(low, np.int16(BACKGROUND), prediction.label_map)


def _as_labels(label_map: LabelMap, first: int) -> LabelMap:
    """Turn class indices into label indices; what has no label becomes `NO_CLASS`."""
    labels: LabelMap = np.maximum(label_map + np.int16(first), np.int16(NO_CLASS))
    return labels


def check_prediction(prediction: Prediction, example: Example, num_classes: int) -> None:
    """Refuse what a stranger's model may return.

    Raises:
        DataError: another shape or type than the image's label map, labels beyond the classes, or
            a confidence that is not a number.
    """
    label_map, confidence = prediction.label_map, prediction.confidence
    problem = None
    if label_map.shape != example.truth.shape:
        sizes = (" x ".join(map(str, shape)) for shape in (label_map.shape, example.truth.shape))
        problem = "of shape {}, not {} (height x width)".format(*sizes)
    elif not np.issubdtype(label_map.dtype, np.integer):
        problem = f"of type {label_map.dtype}, not of whole numbers"
    elif label_map.size and (label_map.max() >= num_classes or label_map.min() < VOID):
        problem = f"with labels beyond -1 to {num_classes - 1}"
    elif confidence is not None and confidence.shape != label_map.shape:
        problem = "whose confidence has another shape"
    elif confidence is not None and not np.isfinite(confidence).all():
        problem = "whose confidence is not a finite number everywhere"
    if problem is not None:
        raise DataError(
            f"The model returned a label map {problem}, for the image {printable(example.key)}.",
            "It must return whole numbers from -1 (background) to the number of classes less 1, "
            "in the size of the image.",
        )


def _readable(benchmark: Benchmark, skipped: Counter[str], progress: Progress) -> Iterator[Example]:
    for key in benchmark.keys:
        try:
            yield benchmark.load(key)
        except ImageError as error:
            skipped[error.reason] += 1
            progress.message(f"skipped: {error.message}")
            progress.advance()


def _batches(examples: Iterable[Example], size: int) -> Iterator[Sequence[Example]]:
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
