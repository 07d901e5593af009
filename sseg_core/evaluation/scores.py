"""From a contestant and a benchmark to the numbers of a `scores` artifact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sseg_core.device import pick_device
from sseg_core.distributed import all_of_ranks, rank, world_size
from sseg_core.errors import DataError, SsegError
from sseg_core.evaluation.contestants import Contestant
from sseg_core.evaluation.evaluator import Evaluation, evaluate, scored_labels
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.kept_counts import KeptCounts
from sseg_core.evaluation.metrics.memory import PeakMemory
from sseg_core.manifest import digest_of
from sseg_core.tracking import SILENT, Progress


def score(
    contestant: Contestant,
    benchmark: Benchmark,
    device: str,
    *,
    task: str = "eval",
    progress: Progress = SILENT,
    scratch: Path | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Return what was counted, and the stats of it.

    With several processes each scores every so many-th image; all of them get the counts of the
    whole benchmark, the same as those of one process.

    Args:
        contestant: who is scored.
        benchmark: on what.
        device: where the contestant computes, for its peak memory.
        task: what the progress is called.
        progress: is told of every image.
        scratch: a folder in which counts are kept, so that the same call goes on from there.

    Raises:
        DataError: no image of the benchmark can be read, or the model returns no label maps.
    """
    memory = PeakMemory(pick_device(device))
    own = replace(benchmark, keys=benchmark.keys[rank() :: world_size()])
    labels = scored_labels(benchmark, exclude_background=contestant.rule.exclude)
    kept = _kept_counts(contestant, scratch)
    counted: Evaluation | SsegError
    try:
        counted = evaluate(
            own,
            contestant.predict,
            contestant.rule,
            batch_size=contestant.batch_size,
            start=None if kept is None else kept.load(labels),
            keep=kept,
            task=task,
            progress=progress,
        )
    except SsegError as error:
        counted = error  # the others wait for this process
    evaluation = _together(all_of_ranks(counted), benchmark)
    if not len(evaluation.per_image):
        raise DataError(f"No image of {benchmark.name} could be read.", "Check its files.")
    # Of the largest process: each has its own memory.
    peak = max(all_of_ranks(memory.megabytes()))
    return evaluation, _stats(contestant, benchmark, evaluation, peak)


def _kept_counts(contestant: Contestant, scratch: Path | None) -> KeptCounts | None:
    if scratch is None or not contestant.resumable:
        return None
    # Words from a file may have changed since.
    identity = digest_of([contestant.reference, contestant.protocol])[:12]
    return KeptCounts(scratch / f"counts-{identity}-{rank()}-of-{world_size()}.npz")


def _together(parts: list[Evaluation | SsegError], benchmark: Benchmark) -> Evaluation:
    whole: Evaluation | None = None
    for part in parts:
        if isinstance(part, SsegError):
            raise part
        if whole is None:
            whole = part
        else:
            whole.merge(part)
    assert whole is not None
    whole.per_image = whole.per_image.ordered(benchmark.keys)
    return whole


def _stats(
    contestant: Contestant, benchmark: Benchmark, evaluation: Evaluation, peak_memory: float
) -> dict[str, Any]:
    scores = evaluation.confusion.compute()
    index = {label: number for number, label in enumerate(evaluation.labels)}
    images = len(evaluation.per_image)
    return {
        "model": contestant.reference,
        "notes": [*contestant.notes, *_no_threshold(contestant, evaluation)],
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "source": benchmark.source,
        "images": images,
        "skipped": dict(evaluation.skipped),
        "classes_scored": sum(not math.isnan(value) for value in scores.iou),
        "miou": percent(scores.miou),
        "miou_interval": [percent(value) for value in evaluation.per_image.interval()],
        **{
            f"miou_{subset}": percent(scores.mean_over(index[name] for name in names))
            for subset, names in benchmark.subsets.items()
        },
        "constant_miou": percent(scores.constant_miou),
        "mean_accuracy": percent(scores.mean_accuracy),
        "frequency_weighted_iou": percent(scores.frequency_weighted_iou),
        "pixel_accuracy": percent(scores.pixel_accuracy),
        "boundary_f": percent(evaluation.per_image.boundary_f()),
        "iou": {label: percent(scores.iou[number]) for label, number in index.items()},
        "accuracy": {label: percent(scores.accuracy[number]) for label, number in index.items()},
        "images_per_second": round(images / max(evaluation.seconds, 1e-9), 2),
        **contestant.measured(),
        "peak_memory_mb": round(peak_memory, 1),
        "protocol": contestant.protocol,
        **_sweep(evaluation),
    }


def _no_threshold(contestant: Contestant, evaluation: Evaluation) -> Iterator[str]:
    if contestant.rule.threshold and not evaluation.confident:
        yield "it has no confidence for a threshold: background is where it says so itself"


def _sweep(evaluation: Evaluation) -> dict[str, Any]:
    if evaluation.sweep is None:
        return {}
    thresholds, miou = evaluation.sweep.curve()
    best_threshold, best_miou = evaluation.sweep.best()
    return {
        "sweep": {
            "thresholds": list(thresholds),
            "miou": [percent(value) for value in miou],
            "best_threshold": best_threshold,
            "best_miou": percent(best_miou),
            "tuned_on_split": True,
        }
    }


def percent(value: float) -> float | None:
    """Return two decimals; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(float(value), 2)
