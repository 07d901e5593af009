"""`sseg eval`: a model and a benchmark in, scores out."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.data.images import RGBImage
from sseg_core.device import pick_device
from sseg_core.errors import ConfigError
from sseg_core.evaluation.benchmarks import Benchmark, open_benchmark
from sseg_core.evaluation.evaluator import (
    Evaluation,
    LabelMap,
    Predictor,
    evaluate,
    model_predictor,
    scored_labels,
)
from sseg_core.evaluation.oracle import Oracle
from sseg_core.evaluation.protocol import (
    OracleProtocol,
    SegmentationProtocol,
    as_json,
    oracle_protocol,
    segmentation_protocol,
)
from sseg_core.inference.segmenter import Segmenter
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
    benchmark's subsets, `constant_miou` of the best constant prediction, `pixel_accuracy`, `iou`
    by label (None where it is neither in the truth nor predicted), all in percent;
    `images_per_second` over the time in the model, from pixels to label maps, reading files left
    out; `protocol`, `benchmark`, `split`, `model`, `images`, `skipped` by reason.

    Raises:
        ConfigError: no such benchmark, features or option.
        DataError: the benchmark's files are missing or none of them can be read.
        ArtifactError: no such checkpoint, or it was changed.
    """
    benchmark = open_benchmark(config)
    contestant = _contestant(config, benchmark, store, device)
    progress.message(f"{contestant.reference} on {benchmark.name}")
    resolved = config.model_copy(update={"model": contestant.reference})
    default_name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{contestant.reference}-{benchmark.name}")
    with store.draft(
        "scores",
        name or default_name[:64],
        resolved.model_dump(mode="json"),
        contestant.parents,
    ) as draft:
        evaluation = evaluate(
            benchmark,
            contestant.predict,
            exclude_background=contestant.protocol.background == "exclude",
            batch_size=config.batch_size,
            progress=progress,
        )
        stats = {
            "benchmark": benchmark.name,
            "split": config.split,
            "model": contestant.reference,
            **_scores(evaluation, benchmark),
            "protocol": as_json(contestant.protocol),
        }
        draft.partial(SCORES).write_text(json.dumps(stats, indent=1), encoding="utf-8")
        draft.commit(SCORES)
        with draft.partial(CONFUSION).open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["truth", *evaluation.labels, "(no class)"])
            for label, row in zip(evaluation.labels, evaluation.confusion.counts, strict=True):
                table.writerow([label, *row.tolist()])
        draft.commit(CONFUSION)
        return draft.publish(stats)


def _contestant(
    config: EvalConfig, benchmark: Benchmark, store: ArtifactStore, device: str
) -> _Contestant:
    if config.model is not None and config.model.startswith(_ORACLE):
        return _oracle(config, benchmark, device)
    segmenter = Segmenter.load(config.model, store=store, device=device)
    assert segmenter.artifact is not None
    protocol = segmentation_protocol(
        config, benchmark, image_size=segmenter.image_size, template=segmenter.template
    )
    segmenter.template = protocol.template

    def segment(images: Sequence[RGBImage], class_names: Sequence[str]) -> list[LabelMap]:
        results = segmenter.segment_batch(
            images, class_names, threshold=protocol.threshold, image_size=protocol.short_side
        )
        return [result.label_map for result in results]

    exclude = protocol.background == "exclude"
    return _Contestant(
        reference=segmenter.artifact.reference,
        predict=model_predictor(segment, benchmark, exclude_background=exclude),
        protocol=protocol,
        parents=(segmenter.artifact,),
    )


def _oracle(config: EvalConfig, benchmark: Benchmark, device: str) -> _Contestant:
    assert config.model is not None
    for option in ("image_size", "threshold", "template"):
        if getattr(config, option) is not None:
            raise ConfigError(
                f"{option} is not an option of {config.model}.", "Leave it out for an oracle."
            )
    masks = PseudomaskConfig(
        features=config.model.removeprefix(_ORACLE),
        weights=config.weights,
        masks=config.masks,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    protocol = oracle_protocol(config, benchmark, masks)
    labels = scored_labels(benchmark, exclude_background=protocol.background == "exclude")
    return _Contestant(
        reference=config.model,
        predict=Oracle(masks, len(labels), pick_device(device)),
        protocol=protocol,
        parents=(),
    )


def _scores(evaluation: Evaluation, benchmark: Benchmark) -> dict[str, Any]:
    scores = evaluation.confusion.compute()
    index = {label: number for number, label in enumerate(evaluation.labels)}
    return {
        "images": evaluation.images,
        "skipped": dict(evaluation.skipped),
        "miou": _percent(scores.miou),
        **{
            f"miou_{subset}": _percent(scores.mean_over(index[name] for name in names))
            for subset, names in benchmark.subsets.items()
        },
        "constant_miou": _percent(scores.constant_miou),
        "pixel_accuracy": _percent(scores.pixel_accuracy),
        "iou": {label: _percent(float(scores.iou[number])) for label, number in index.items()},
        "images_per_second": round(evaluation.images / max(evaluation.seconds, 1e-9), 2),
    }


def _percent(value: float) -> float | None:
    """Two decimals; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(value, 2)
