"""`sseg eval`: a model and a benchmark in, scores out."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.config import EvalConfig
from sseg_core.draft import program_version
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.contestants import Contestant, contestant
from sseg_core.evaluation.evaluator import Evaluation, as_scored, thresholded
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.metrics.per_image import PerImage
from sseg_core.evaluation.published.published import check, check_row
from sseg_core.evaluation.report.gallery import GalleryImage
from sseg_core.evaluation.report.scores import ScoresReport, write_scores_page
from sseg_core.evaluation.rivals.table1 import ALL
from sseg_core.evaluation.scores import percent, score
from sseg_core.group_draft import group_draft
from sseg_core.tracking import SILENT, Progress

SCORES = "scores.json"
CONFUSION = "confusion.csv"
IMAGES = "images.npz"
REPORT = "report.html"


def run(
    config: EvalConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Score a model, or the pseudo-masks themselves, and publish a `scores` artifact.

    The artifact holds `scores.json` (the manifest's stats once more), `confusion.csv` (pixels by
    true label in rows and predicted label in columns), `images.npz` (the counts of each image, see
    `PerImage`) and, if asked for, `report.html`. Stats: `miou` with `miou_interval` (95 %, by
    bootstrap over images), `miou_SUBSET` for the benchmark's subsets, `constant_miou` of the best
    constant prediction, `mean_accuracy`, `frequency_weighted_iou`, `pixel_accuracy`, `boundary_f`,
    `iou` and `accuracy` by label (None where there is none), all in percent; `images_per_second`
    over the time in the model, from pixels to label maps, reading files left out;
    `milliseconds_per_image` of an oracle's generator alone, see `Oracle`; `peak_memory_mb`, see
    `PeakMemory`; `protocol`, `benchmark`, `split`, `source`, `model`, `notes`, `images`,
    `skipped` by reason; `sweep` and `check` if asked for.

    With several processes each scores a part of the images; the counts are those of one. The same
    command after an interruption goes on from what was counted, unless the model is a plug-in or
    an oracle.

    Raises:
        ConfigError: no such benchmark, model, protocol or option.
        DataError: the benchmark's files are missing or none of them can be read, or the model
            returns no label maps.
        ArtifactError: no such checkpoint or weights, or they were changed.
    """
    if config.model == ALL:
        from sseg_core.stages.evaluate_table import run_table

        return run_table(config, store, name=name, device=device, progress=progress)
    if config.check is not None:
        check_row(config.check)
    benchmark = open_benchmark(config, store, progress)
    entrant = contestant(config, benchmark, store, device)
    progress.message(f"{entrant.reference} on {benchmark.name}, protocol {_shown(entrant)}")
    resolved = config
    if entrant.parents:  # `NAME`, or none for the newest, which may be another one tomorrow
        resolved = config.model_copy(update={"model": entrant.reference})
    with group_draft(
        store,
        "scores",
        name or default_name(entrant.reference, benchmark),
        resolved.model_dump(mode="json"),
        entrant.parents,
    ) as place:
        evaluation, stats = score(
            entrant, benchmark, device, progress=progress, scratch=place.scratch
        )
        if evaluation.sweep is None and config.sweep_threshold:
            progress.message(f"warning: {entrant.reference} has no confidence for a threshold")
        if (draft := place.draft) is None:
            return place.share(None)
        if _tuned_here(stats, store):
            stats["protocol"]["tuned_on_split"] = True
            progress.message("warning: this threshold is the best of a sweep over the same split")
        if config.limit is not None:
            stats["limit"] = config.limit
        if config.check is not None:
            stats["check"] = check(stats, config.check)
        write_text(draft, SCORES, json.dumps(stats, indent=1))
        _write_confusion(draft, evaluation)
        evaluation.per_image.save(draft.partial(IMAGES))
        draft.commit(IMAGES)
        if config.report:
            progress.message("report: looking at the best and the worst images once more")
            report = ScoresReport(
                stats=stats,
                labels=evaluation.labels,
                class_names=benchmark.class_names,
                confusion=evaluation.confusion.counts,
                gallery=_gallery(config.gallery, entrant, benchmark, evaluation.per_image),
                lineage=[parent.as_parent().model_dump() for parent in entrant.parents],
                command=command_of(resolved),
                version=program_version(),
            )
            write_scores_page(draft.partial(REPORT), report)
            draft.commit(REPORT)
        return place.share(draft.publish(stats))


def default_name(reference: str, benchmark: Benchmark) -> str:
    """Return the name of a `scores` artifact that was given none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{reference}-{benchmark.name}").strip("-.")[:64]


def _tuned_here(stats: Mapping[str, Any], store: ArtifactStore) -> bool:
    """Return whether the threshold is the best one of a sweep over the split that is scored."""
    if "threshold" not in stats["protocol"].get("changed", ()):
        return False
    scored = ("model", "benchmark", "split")
    sweeps = (
        artifact.manifest.stats
        for artifact in store.artifacts("scores")
        if "sweep" in artifact.manifest.stats
    )
    return any(
        all(swept[name] == stats[name] for name in scored)
        and swept["sweep"]["best_threshold"] == stats["protocol"]["threshold"]
        for swept in sweeps
    )


def command_of(config: EvalConfig) -> str:
    """Return the command line that scores the same again."""
    values, defaults = config.model_dump(mode="json"), EvalConfig().model_dump(mode="json")
    words = ["sseg", "eval"]
    for name in ("benchmark", "root", "model", "protocol", "limit", "check"):
        value, default = values.pop(name), defaults[name]
        if value != default or name == "benchmark":
            words += [f"--{name}", str(value)]
    for name in ("sweep_threshold", "report"):
        if values.pop(name):
            words.append(f"--{name.replace('_', '-')}")
    oracle, usual = values.pop("oracle"), defaults["oracle"]
    changed = {f"oracle.{name}": value for name, value in oracle.items() if value != usual[name]}
    changed |= {name: value for name, value in values.items() if value != defaults[name]}
    for name, value in changed.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words += ["--set", f"{name}={text}"]
    return shlex.join(words)


def write_text(draft: Draft, relative: str, text: str) -> None:
    """Write a text file of an artifact and commit it."""
    draft.partial(relative).write_text(text, encoding="utf-8")
    draft.commit(relative)


def _shown(entrant: Contestant) -> str:
    protocol = entrant.protocol
    changed = protocol.get("changed")
    return f"{protocol['name']} v{protocol['version']}" + (
        f" with {', '.join(changed)} changed" if changed else ""
    )


def _write_confusion(draft: Draft, evaluation: Evaluation) -> None:
    with draft.partial(CONFUSION).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["truth", *evaluation.labels, "(no class)"])
        for label, row in zip(evaluation.labels, evaluation.confusion.counts, strict=True):
            table.writerow([label, *row.tolist()])
    draft.commit(CONFUSION)


def _gallery(
    count: int, entrant: Contestant, benchmark: Benchmark, per_image: PerImage
) -> list[GalleryImage]:
    """Return the images with the best and the worst mIoU, predicted once more."""
    scored = {key: per_image.miou_of(key) for key in per_image.keys}
    ranked = sorted((key for key in scored if not math.isnan(scored[key])), key=scored.__getitem__)
    worst = ranked[: min(count // 2, len(ranked) // 2)]
    best = ranked[len(worst) :][-(count - count // 2) :][::-1]
    groups: tuple[tuple[Literal["best", "worst"], Sequence[str]], ...]
    groups = (("best", best), ("worst", worst))
    images = []
    for group, keys in groups:
        for key in keys:
            example = as_scored(benchmark.load(key), entrant.rule)
            [prediction] = entrant.predict([example])
            images.append(
                GalleryImage(
                    key=key,
                    image=example.image,
                    truth=example.truth,
                    prediction=thresholded(prediction, entrant.rule.threshold),
                    miou=percent(scored[key]),
                    pixel_accuracy=percent(per_image.pixel_accuracy_of(key)),
                    group=group,
                )
            )
    return images
