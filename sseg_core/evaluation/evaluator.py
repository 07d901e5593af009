"""The loop over a benchmark; it knows a model only by the label maps it returns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.errors import DataError
from sseg_core.evaluation.boundary import BoundaryF
from sseg_core.evaluation.examples import Benchmark, Example
from sseg_core.evaluation.metrics import ConfusionMatrix
from sseg_core.evaluation.protocol import SegmentationProtocol
from sseg_core.inference.segmenter import Segmenter
from sseg_core.structures import IGNORE_LABEL
from sseg_core.tracking import SILENT, Progress

LabelMap = npt.NDArray[np.int16]

Segment = Callable[[Sequence[npt.NDArray[np.uint8]], Sequence[str]], Sequence[LabelMap]]
"""A model: images [H, W, 3] uint8 and class names in, label maps [H, W] of their sizes out, with
-1 for background."""

Predictor = Callable[[Sequence[Example]], Sequence[LabelMap]]
"""What is scored: examples in, label maps out that index the scored labels, -1 for none."""


@dataclass
class Evaluation:
    """What a pass over a benchmark counted.

    Attributes:
        labels: the scored labels, background among them where it is scored.
        confusion: over all images.
        boundary: likewise, of the borders between the labels.
        images: number of images that were scored.
        seconds: time in the predictor; reading images and counting are not in it.
        skipped: images that could not be read, by reason.
    """

    labels: tuple[str, ...]
    confusion: ConfusionMatrix
    boundary: BoundaryF = field(default_factory=BoundaryF)
    images: int = 0
    seconds: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)


def scored_labels(benchmark: Benchmark, *, exclude_background: bool) -> tuple[str, ...]:
    """Return the names of the labels that count, in the order of their indices."""
    if benchmark.has_background and not exclude_background:
        return ("background", *benchmark.class_names)
    return benchmark.class_names


def model_predictor(
    segment: Segment, benchmark: Benchmark, *, exclude_background: bool
) -> Predictor:
    """Return the predictor that asks `segment` for the benchmark's classes."""
    # A model's background is -1 and its first class 0; with background scored they are 0 and 1.
    first = int(benchmark.has_background and not exclude_background)

    def predict(examples: Sequence[Example]) -> list[LabelMap]:
        label_maps = segment([example.image for example in examples], benchmark.class_names)
        return [label_map + np.int16(first) for label_map in label_maps]

    return predict


def segmenter_predictor(
    segmenter: Segmenter, protocol: SegmentationProtocol, benchmark: Benchmark
) -> Predictor:
    """Return the predictor that asks a trained model under a protocol."""

    def segment(images: Sequence[RGBImage], class_names: Sequence[str]) -> list[LabelMap]:
        results = segmenter.segment_batch(
            images, class_names, threshold=protocol.threshold, image_size=protocol.short_side
        )
        return [result.label_map for result in results]

    exclude = protocol.background == "exclude"
    return model_predictor(segment, benchmark, exclude_background=exclude)


def evaluate(
    benchmark: Benchmark,
    predict: Predictor,
    *,
    exclude_background: bool = False,
    batch_size: int = 8,
    task: str = "eval",
    progress: Progress = SILENT,
) -> Evaluation:
    """Score `predict` on all examples of `benchmark`.

    Args:
        benchmark: the examples.
        predict: sees `batch_size` examples at a time, their truth in scored labels.
        exclude_background: truth background does not count (S-Seg Table 4).
        batch_size: examples at a time.
        task: what the progress is called.
        progress: is told of every image.

    Raises:
        DataError: no image of the benchmark can be read.
    """
    labels = scored_labels(benchmark, exclude_background=exclude_background)
    result = Evaluation(labels, ConfusionMatrix(len(labels)))
    progress.start(task, len(benchmark), "images")
    examples = _readable(benchmark, result.skipped, progress)
    if benchmark.has_background and exclude_background:
        examples = (replace(e, truth=_without_background(e.truth)) for e in examples)
    for batch in _batches(examples, batch_size):
        start = time.perf_counter()
        predictions = predict(batch)
        result.seconds += time.perf_counter() - start
        for example, prediction in zip(batch, predictions, strict=True):
            result.confusion.update(prediction, example.truth)
            result.boundary.update(prediction, example.truth)
        result.images += len(batch)
        progress.advance(len(batch), miou=f"{result.confusion.compute().miou:.1f}")
    if not result.images:
        raise DataError(f"No image of {benchmark.name} could be read.", "Check its files.")
    return result


def _readable(benchmark: Benchmark, skipped: Counter[str], progress: Progress) -> Iterator[Example]:
    for key in benchmark.keys:
        try:
            yield benchmark.load(key)
        except ImageError as error:
            skipped[error.reason] += 1
            progress.message(f"skipped: {error.message}")
            progress.advance()


def _without_background(truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Move the labels 1, 2, ... down to 0, 1, ...; background becomes a label that is ignored."""
    not_counted = (truth == 0) | (truth == IGNORE_LABEL)
    return np.where(not_counted, np.uint8(IGNORE_LABEL), truth - np.uint8(1))


def _batches(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
