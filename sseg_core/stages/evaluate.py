"""`sseg eval`: a model and a benchmark in, scores out."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.device import pick_device
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.benchmarks import open_benchmark
from sseg_core.evaluation.evaluator import (
    Evaluation,
    Predictor,
    evaluate,
    scored_labels,
    segmenter_predictor,
)
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.memory import PeakMemory
from sseg_core.evaluation.oracle import Oracle
from sseg_core.evaluation.protocol import (
    OracleProtocol,
    SegmentationProtocol,
    as_json,
    oracle_protocol,
    segmentation_protocol,
)
from sseg_core.evaluation.table1 import ALL, GENERATORS, Generator, check_table
from sseg_core.inference.segmenter import Segmenter
from sseg_core.pseudomask.clustering import resolve
from sseg_core.pseudomask.features import resolve_features
from sseg_core.tracking import SILENT, Progress

SCORES = "scores.json"
CONFUSION = "confusion.csv"

_ORACLE = "oracle:"


@dataclass(frozen=True)
class _Contestant:
    """What is scored, and how."""

    reference: str
    predict: Predictor
    protocol: SegmentationProtocol | OracleProtocol
    parents: tuple[Artifact, ...]
    batch_size: int
    measured: Callable[[], dict[str, float]] = dict
    """What the contestant measured itself, once it has seen the benchmark."""


def run(
    config: EvalConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Score a checkpoint, or the pseudo-masks themselves, and publish a `scores` artifact.

    The artifact holds `scores.json` (the manifest's stats once more) and `confusion.csv` (pixels
    by true label in rows and predicted label in columns). Stats: `miou`, `miou_SUBSET` for the
    benchmark's subsets, `constant_miou` of the best constant prediction, `pixel_accuracy`,
    `boundary_f`, `iou` by label (None where it is neither in the truth nor predicted), all in
    percent; `images_per_second` over the time in the model, from pixels to label maps, reading
    files left out; `milliseconds_per_image` of an oracle's generator alone, see `Oracle`;
    `peak_memory_mb`, see `PeakMemory`; `protocol`, `benchmark`, `split`, `model`, `images`,
    `skipped` by reason.

    The model `oracle:all` scores every generator of Table 1 that can run here. Its stats hold
    `rows`: for each generator the above, or `missing`, a sentence that says what it lacks; with
    `generator`, `supervision`, `masks` and, where the paper has them, `paper_miou` and
    `paper_milliseconds_per_image`. Run again after an interruption, it makes only the rows that
    are not there.

    Raises:
        ConfigError: no such benchmark, features or option.
        DataError: the benchmark's files are missing or none of them can be read.
        ArtifactError: no such checkpoint, or it was changed.
    """
    benchmark = open_benchmark(config)
    if config.model == ALL:
        return _run_table(config, benchmark, store, name=name, device=device, progress=progress)
    contestant = _contestant(config, benchmark, store, device)
    progress.message(f"{contestant.reference} on {benchmark.name}")
    resolved = config.model_copy(update={"model": contestant.reference})
    with store.draft(
        "scores",
        name or _default_name(contestant.reference, benchmark),
        resolved.model_dump(mode="json"),
        contestant.parents,
    ) as draft:
        evaluation, stats = _score(contestant, benchmark, device, "eval", progress)
        stats = {"benchmark": benchmark.name, "split": config.split, **stats}
        draft.partial(SCORES).write_text(json.dumps(stats, indent=1), encoding="utf-8")
        draft.commit(SCORES)
        with draft.partial(CONFUSION).open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["truth", *evaluation.labels, "(no class)"])
            for label, row in zip(evaluation.labels, evaluation.confusion.counts, strict=True):
                table.writerow([label, *row.tolist()])
        draft.commit(CONFUSION)
        return draft.publish(stats)


def _run_table(
    config: EvalConfig,
    benchmark: Benchmark,
    store: ArtifactStore,
    *,
    name: str | None,
    device: str,
    progress: Progress,
) -> Artifact:
    check_table(config)
    _refuse_model_options(config)
    values = config.model_dump(mode="json")
    with store.draft("scores", name or _default_name(ALL, benchmark), values) as draft:
        rows = []
        for number, generator in enumerate(GENERATORS, start=1):
            file = f"row-{number}.json"
            if file not in draft.finished:
                row = _table_row(generator, config, benchmark, device, progress)
                if row["missing"] is not None:
                    rows.append(row)
                    continue
                draft.partial(file).write_text(json.dumps(row, indent=1), encoding="utf-8")
                draft.commit(file, row)
            rows.append(draft.finished[file])
        stats = {
            "benchmark": benchmark.name,
            "split": config.split,
            "model": ALL,
            "images": max(row.get("images", 0) for row in rows),
            "rows": rows,
        }
        draft.partial(SCORES).write_text(json.dumps(stats, indent=1), encoding="utf-8")
        draft.commit(SCORES)
        return draft.publish(stats)


def _table_row(
    generator: Generator, config: EvalConfig, benchmark: Benchmark, device: str, progress: Progress
) -> dict[str, Any]:
    row = {
        "generator": generator.name,
        "supervision": generator.supervision,
        "masks": config.oracle.masks,
        "paper_miou": generator.paper_miou.get(benchmark.name),
        "paper_milliseconds_per_image": generator.paper_milliseconds,
        "missing": generator.lacks(),
    }
    if row["missing"] is not None:
        return row
    try:
        contestant = _oracle(config, generator.configured(config.oracle), benchmark, device)
        _, stats = _score(contestant, benchmark, device, generator.name, progress)
    except (ConfigError, ArtifactError) as error:
        return {**row, "missing": str(error)}
    return {**row, **stats}


def _default_name(reference: str, benchmark: Benchmark) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{reference}-{benchmark.name}")[:64]


def _contestant(
    config: EvalConfig, benchmark: Benchmark, store: ArtifactStore, device: str
) -> _Contestant:
    if config.model is not None and config.model.startswith(_ORACLE):
        _refuse_model_options(config)
        features = resolve_features(config.model.removeprefix(_ORACLE))
        if config.oracle.features not in {"auto", features}:
            raise ConfigError(
                f"oracle.features is {config.oracle.features}, but the model is {config.model}.",
                "Leave oracle.features out.",
            )
        masks = config.oracle.model_copy(update={"features": features})
        return _oracle(config, masks, benchmark, device)
    if config.oracle != PseudomaskConfig():
        raise ConfigError(
            "Options of the oracle are given, but the model is a checkpoint.",
            "Add --model oracle:FEATURES, or leave them out.",
        )
    segmenter = Segmenter.load(config.model, store=store, device=device)
    assert segmenter.artifact is not None
    protocol = segmentation_protocol(
        config, benchmark, image_size=segmenter.image_size, template=segmenter.template
    )
    segmenter.template = protocol.template

    return _Contestant(
        reference=segmenter.artifact.reference,
        predict=segmenter_predictor(segmenter, protocol, benchmark),
        protocol=protocol,
        parents=(segmenter.artifact,),
        batch_size=config.batch_size,
    )


def _oracle(
    config: EvalConfig, masks: PseudomaskConfig, benchmark: Benchmark, device: str
) -> _Contestant:
    masks = resolve(masks)
    protocol = oracle_protocol(config, benchmark, masks)
    labels = scored_labels(benchmark, exclude_background=protocol.background == "exclude")
    oracle = Oracle(masks, len(labels), pick_device(device))
    return _Contestant(
        reference=f"{_ORACLE}{masks.features}",
        predict=oracle,
        protocol=protocol,
        parents=(),
        batch_size=masks.batch_size,
        measured=lambda: {"milliseconds_per_image": round(oracle.milliseconds_per_image, 3)},
    )


def _refuse_model_options(config: EvalConfig) -> None:
    for option in ("image_size", "threshold", "template"):
        if getattr(config, option) is not None:
            raise ConfigError(
                f"{option} is not an option of {config.model}.", "Leave it out for an oracle."
            )


def _score(
    contestant: _Contestant, benchmark: Benchmark, device: str, task: str, progress: Progress
) -> tuple[Evaluation, dict[str, Any]]:
    memory = PeakMemory(pick_device(device))
    evaluation = evaluate(
        benchmark,
        contestant.predict,
        exclude_background=contestant.protocol.background == "exclude",
        batch_size=contestant.batch_size,
        task=task,
        progress=progress,
    )
    scores = evaluation.confusion.compute()
    index = {label: number for number, label in enumerate(evaluation.labels)}
    return evaluation, {
        "model": contestant.reference,
        "images": evaluation.images,
        "skipped": dict(evaluation.skipped),
        "miou": _percent(scores.miou),
        **{
            f"miou_{subset}": _percent(scores.mean_over(index[name] for name in names))
            for subset, names in benchmark.subsets.items()
        },
        "constant_miou": _percent(scores.constant_miou),
        "pixel_accuracy": _percent(scores.pixel_accuracy),
        "boundary_f": _percent(evaluation.boundary.compute()),
        "iou": {label: _percent(float(scores.iou[number])) for label, number in index.items()},
        "images_per_second": round(evaluation.images / max(evaluation.seconds, 1e-9), 2),
        **contestant.measured(),
        "peak_memory_mb": round(memory.megabytes(), 1),
        "protocol": as_json(contestant.protocol),
    }


def _percent(value: float) -> float | None:
    """Two decimals; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(value, 2)
