"""The report of `sseg eval`: one HTML file with scores, pictures and everything they depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.report.as_published import as_published
from sseg_core.evaluation.report.gallery import GalleryImage, gallery_card, swatches
from sseg_core.evaluation.report.heat_map import heat_map
from sseg_core.evaluation.report.wording import (
    Entry,
    entry,
    number,
    plain,
    protocol_entries,
    protocol_title,
    subsets,
)
from sseg_core.page import render_page

_METRICS = {
    "mean_accuracy": "mean accuracy of the labels",
    "frequency_weighted_iou": "IoU, weighted by frequency",
    "pixel_accuracy": "pixels with the right label",
    "boundary_f": "boundary F",
    "constant_miou": "mIoU of the best constant answer",
}


@dataclass(frozen=True, kw_only=True)
class ScoresReport:
    """What the page shows.

    Attributes:
        stats: of the `scores` artifact.
        labels: the C scored labels, background first where it is scored.
        class_names: the classes that the model was asked for, in the order of the label maps.
        confusion: [C, C + 1] pixels by true and predicted label; the last column is "no class".
        gallery: images to show.
        lineage: `kind`, `name`, `version` and `digest` of the artifacts behind the scores.
        command: that makes the scores again.
        version: of the program.
    """

    stats: Mapping[str, Any]
    labels: tuple[str, ...]
    class_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    gallery: Sequence[GalleryImage]
    lineage: Sequence[Mapping[str, Any]]
    command: str
    version: str


@dataclass(frozen=True)
class ClassRow:
    """A label with its scores in percent; None where it does not occur.

    Attributes:
        name: of the label.
        color: `#rrggbb`; empty for background.
        iou: intersection over union.
        accuracy: share of its pixels that were found.
    """

    name: str
    color: str
    iou: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Curve:
    """mIoU by threshold.

    Attributes:
        thresholds: [N] ascending, in [0, 1].
        miou: [N] in percent.
        points: of an SVG polyline in a box of 100 x 100.
        top: mIoU at the upper edge of the box.
        used: the threshold that the scores were made with; None if none was.
        best: threshold of the largest mIoU.
        best_miou: the largest mIoU.
        start: index of the threshold to tell first, the used one if there is one.
    """

    thresholds: list[float]
    miou: list[float]
    points: str
    top: float
    used: float | None
    best: float
    best_miou: float
    start: int


def write_scores_page(path: Path, report: ScoresReport) -> None:
    """Write the report as one self-contained HTML file that asks nothing of the network."""
    stats = report.stats
    protocol = stats.get("protocol") or {}
    interval = stats.get("miou_interval") or ()
    groups = {
        group: [
            _card(image, report.class_names) for image in report.gallery if image.group == group
        ]
        for group in ("worst", "best")
    }
    html = render_page(
        "evaluation/report/scores.html.j2",
        model=plain(stats["model"]),
        benchmark=plain(stats["benchmark"]),
        split=plain(stats["split"]),
        images=stats["images"],
        miou=stats["miou"],
        interval=interval if None not in interval else (),
        constant=stats.get("constant_miou"),
        metrics=[(title, number(stats.get(name))) for name, title in _METRICS.items()],
        subsets=[(name, number(value)) for name, value in subsets(stats).items()],
        facts=_facts(stats),
        tuned=bool(protocol.get("tuned_on_split")),
        limited=stats.get("limit") is not None,
        changed=[entry_.name for entry_ in protocol_entries(protocol) if entry_.marked],
        skipped={plain(key): count for key, count in (stats.get("skipped") or {}).items()},
        groups={group: cards for group, cards in groups.items() if cards},
        classes=_by_iou(class_rows(stats, report.labels, report.class_names)),
        heat=heat_map(report.labels, report.confusion),
        curve=_curve(stats.get("sweep"), protocol),
        check=as_published(stats),
        protocol_title=protocol_title(stats),
        protocol=protocol_entries(protocol),
        notes=[plain(note) for note in stats.get("notes") or ()],
        lineage=[{key: plain(value) for key, value in step.items()} for step in report.lineage],
        command=plain(report.command),
        version=plain(report.version),
    )
    path.write_text(html, encoding="utf-8")


def class_rows(
    stats: Mapping[str, Any], labels: Sequence[str], class_names: Sequence[str]
) -> list[ClassRow]:
    """Return the labels with their scores, in the benchmark's order."""
    iou, accuracy = stats.get("iou") or {}, stats.get("accuracy") or {}
    colors = [""] * (len(labels) - len(class_names)) + swatches(class_names)
    return [
        ClassRow(plain(label), color, iou.get(label), accuracy.get(label))
        for label, color in zip(labels, colors, strict=True)
    ]


def _by_iou(rows: Sequence[ClassRow]) -> list[tuple[int, ClassRow]]:
    """Return the rows with their places in the benchmark, the best IoU first, missing ones last."""
    return sorted(
        enumerate(rows), key=lambda item: -1.0 if item[1].iou is None else item[1].iou, reverse=True
    )


def _card(image: GalleryImage, class_names: Sequence[str]) -> Any:
    facts = f"mIoU {number(image.miou)} %, {number(image.pixel_accuracy)} % of the pixels right"
    maps = {"truth": image.truth, "prediction": image.prediction}
    return gallery_card(image.key, image.image, maps, class_names, facts)


def _facts(stats: Mapping[str, Any]) -> list[Entry]:
    """Return what was measured besides the scores."""
    speed, memory = stats.get("images_per_second"), stats.get("peak_memory_mb")
    found = [
        ("benchmark", f"{stats['benchmark']}, split {stats['split']}"),
        ("truth read from", stats.get("source")),
        ("labels with a score", stats.get("classes_scored")),
        ("milliseconds per image, generator alone", stats.get("milliseconds_per_image")),
        ("images per second", None if speed is None else number(speed, 2)),
        ("peak memory", None if memory is None else f"{memory:,.0f} MB"),
    ]
    return [entry(name, value) for name, value in found if value not in {None, ""}]


def _curve(sweep: Mapping[str, Any] | None, protocol: Mapping[str, Any]) -> Curve | None:
    """Return the curve of a sweep; thresholds without a score are left out."""
    if not sweep:
        return None
    pairs = [
        (float(threshold), float(miou))
        for threshold, miou in zip(sweep["thresholds"], sweep["miou"], strict=True)
        if miou is not None
    ]
    if len(pairs) < 2:
        return None
    top = max(5.0, 5 * np.ceil(max(miou for _, miou in pairs) / 5))
    used = protocol.get("threshold")
    first = float(sweep["best_threshold"]) if used is None else float(used)
    return Curve(
        thresholds=[threshold for threshold, _ in pairs],
        miou=[miou for _, miou in pairs],
        points=" ".join(f"{100 * t:.2f},{100 * (1 - miou / top):.2f}" for t, miou in pairs),
        top=float(top),
        used=None if used is None else float(used),
        best=float(sweep["best_threshold"]),
        best_miou=float(sweep["best_miou"]),
        start=min(range(len(pairs)), key=lambda index: abs(pairs[index][0] - first)),
    )
