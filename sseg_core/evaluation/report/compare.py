"""Several runs side by side: one HTML file that says what differs, and by how much for sure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sseg_core.evaluation.report.gallery import Card, GalleryImage, gallery_card
from sseg_core.evaluation.report.whiskers import Axis, Measured, Whisker
from sseg_core.evaluation.report.wording import Entry, entry, number, plain, protocol_title, signed
from sseg_core.page import render_page

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito
_METRICS = {
    "miou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "IoU, weighted by frequency",
    "pixel_accuracy": "pixel accuracy",
    "boundary_f": "boundary F",
    "constant_miou": "mIoU of the best constant answer",
    "images_per_second": "images per second",
    "peak_memory_mb": "peak memory, MB",
}
_BEST = {"miou", "mean_accuracy", "frequency_weighted_iou", "pixel_accuracy", "boundary_f"}
_SETTING = ("benchmark", "split", "source", "images", "limit", "skipped")
_DECISIVE = {
    *_SETTING,
    *("protocol", "version of it", "class_words", "words", "background", "background_words"),
    "threshold",
}
"""Settings that scores must share to compare; the others are a model's own affair."""
_BACKGROUND_COUNTS = {"class", "threshold", "words"}
_EXTREMES = 6  # classes listed as gains and as losses
_IMAGES = 12  # listed where runs differ most

Difference = tuple[float, float, float]
"""One mIoU less another, and the ends of its interval, in points."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `scores` artifact.

    Attributes:
        reference: of the artifact.
        stats: of the artifact.
        image_miou: mIoU of the single images in percent, by key.
        gallery: images to show; those that several runs have stand side by side.
    """

    reference: str
    stats: Mapping[str, Any]
    image_miou: Mapping[str, float]
    gallery: Sequence[GalleryImage] = ()


@dataclass(frozen=True)
class Column:
    """A run as the page names it: a letter, a colour, the model, the artifact."""

    letter: str
    color: str
    model: str
    reference: str
    protocol: str


@dataclass(frozen=True)
class ClassRow:
    """A label with its IoU in each run.

    Attributes:
        name: of the label.
        iou: by run, None where it has none.
        spread: the largest less the smallest; None with less than two.
    """

    name: str
    iou: tuple[float | None, ...]
    spread: float | None


@dataclass(frozen=True)
class Change:
    """Classes that gained and lost most between the first run and another one.

    Attributes:
        run: index of the other run.
        gains: class and points, the largest gain first.
        losses: class and points, the largest loss first.
    """

    run: int
    gains: tuple[tuple[str, str], ...]
    losses: tuple[tuple[str, str], ...]


def write_comparison_page(
    path: Path,
    runs: Sequence[Run],
    paired: Mapping[tuple[int, int], Difference],
    *,
    version: str,
    class_names: Sequence[str] = (),
) -> None:
    """Write the comparison as one self-contained HTML file that asks nothing of the network.

    Args:
        path: of the file.
        runs: two or more; the first one is what the others are read against.
        paired: mIoU of run i less that of run j on the same images, by (i, j).
        version: of the program.
        class_names: of the label maps in the galleries.
    """
    columns = [_column(index, run) for index, run in enumerate(runs)]
    differing, same = _settings(runs)
    classes = _class_rows(runs)
    axis = Axis.of_percents(map(_miou, runs))
    html = render_page(
        "evaluation/report/compare.html.j2",
        columns=columns,
        axis=axis,
        intervals=[axis.whisker(_miou(run)) for run in runs],
        differences=_differences(paired),
        metrics=_metrics(runs),
        apart=what_keeps_apart(runs),
        differing=differing,
        same=same,
        classes=_by_spread(classes),
        changes=_changes(classes, len(runs)),
        images=_images(runs),
        cards=_cards(runs, columns, class_names),
        version=plain(version),
    )
    path.write_text(html, encoding="utf-8")


def _column(index: int, run: Run) -> Column:
    letter = ascii_uppercase[index % 26] + str(index // 26 or "")
    return Column(
        letter,
        _COLORS[index % len(_COLORS)],
        plain(run.stats["model"]),
        plain(run.reference),
        protocol_title(run.stats),
    )


def what_keeps_apart(runs: Sequence[Run]) -> list[str]:
    """Return the names of settings that differ and keep the scores from being compared.

    How a model finds background is its own affair where one of them tells it apart itself, as
    long as it counts as a class for all.
    """
    tables = [_setting(run.stats) for run in runs]
    decisive = _DECISIVE
    rules = {table.get("background") for table in tables}
    if "class" in rules and rules <= _BACKGROUND_COUNTS:
        decisive = decisive - {"background", "background_words", "threshold"}
    return [
        name.replace("_", " ")
        for name in dict.fromkeys(name for table in tables for name in table)
        if name in decisive and any(table.get(name) != tables[0].get(name) for table in tables)
    ]


def _settings(
    runs: Sequence[Run],
) -> tuple[list[tuple[str, list[Entry]]], list[Entry]]:
    """Return what the runs were measured with: what differs, by run, and what is the same."""
    tables = [_setting(run.stats) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    differing, same = [], []
    for name in names:
        values = [table.get(name) for table in tables]
        if all(value == values[0] for value in values):
            same.append(entry(name, values[0]))
        else:
            differing.append((plain(name).replace("_", " "), [entry(name, v) for v in values]))
    return differing, same


def _setting(stats: Mapping[str, Any]) -> dict[str, Any]:
    protocol = dict(stats.get("protocol") or {})
    if "window" in protocol:  # scores from before there were the two
        protocol = {"scales": [1.0], "flip": False, **protocol}
    protocol.pop("changed", None)
    title = {"protocol": protocol.pop("name", None), "version of it": protocol.pop("version", None)}
    return {**{name: stats.get(name) or None for name in _SETTING}, **title, **protocol}


def _metrics(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Return the scores by metric and run, and whether a run is the best."""
    rows = []
    for name, title in _METRICS.items():
        values = [run.stats.get(name) for run in runs]
        best = max((value for value in values if value is not None), default=None)
        if best is not None:
            digits = 0 if name == "peak_memory_mb" else 2
            even = all(value == best for value in values)
            marks = [name in _BEST and value == best and not even for value in values]
            rows.append(
                (title, [(number(v, digits), m) for v, m in zip(values, marks, strict=True)])
            )
    return rows


def _miou(run: Run) -> Measured:
    return Measured(run.stats.get("miou"), *(run.stats.get("miou_interval") or ()))


def _differences(
    paired: Mapping[tuple[int, int], Difference],
) -> list[tuple[int, int, Whisker, bool]]:
    """Return the pairs of runs with their difference and whether it is more than chance."""
    axis = Axis.of_differences(Measured(*numbers) for numbers in paired.values())
    return [
        (i, j, axis.whisker(Measured(value, low, high)), low > 0 or high < 0)
        for (i, j), (value, low, high) in paired.items()
    ]


def _class_rows(runs: Sequence[Run]) -> list[ClassRow]:
    labels = dict.fromkeys(label for run in runs for label in run.stats.get("iou") or ())
    rows = []
    for label in labels:
        iou = tuple((run.stats.get("iou") or {}).get(label) for run in runs)
        known = [value for value in iou if value is not None]
        rows.append(ClassRow(plain(label), iou, max(known) - min(known) if known[1:] else None))
    return rows


def _by_spread(rows: Sequence[ClassRow]) -> list[tuple[int, ClassRow]]:
    """Return the rows with their places in the benchmark, the largest spread first."""

    def spread(item: tuple[int, ClassRow]) -> float:
        return -1.0 if item[1].spread is None else item[1].spread

    return sorted(enumerate(rows), key=spread, reverse=True)


def _changes(classes: Sequence[ClassRow], runs: int) -> list[Change]:
    changes = []
    for run in range(1, runs):
        points = [
            (row.name, after - before)
            for row in classes
            if (before := row.iou[0]) is not None and (after := row.iou[run]) is not None
        ]
        ranked = sorted(points, key=lambda item: item[1])
        gains, losses = (
            tuple((name, signed(value)) for name, value in ends[:_EXTREMES])
            for ends in (
                [item for item in reversed(ranked) if item[1] > 0],
                [item for item in ranked if item[1] < 0],
            )
        )
        changes.append(Change(run, gains, losses))
    return changes


def _images(runs: Sequence[Run]) -> list[tuple[str, list[str], str]]:
    """Return key, mIoU by run and spread of the images that all runs have and differ in most."""
    spreads = [(_spread(run.image_miou[key] for run in runs), key) for key in _common(runs)]
    ranked = sorted(((s, key) for s, key in spreads if s > 0), key=lambda item: (-item[0], item[1]))
    return [
        (plain(key), [number(run.image_miou[key]) for run in runs], number(spread))
        for spread, key in ranked[:_IMAGES]
    ]


def _common(runs: Sequence[Run]) -> set[str]:
    return set.intersection(*(set(run.image_miou) for run in runs)) if runs else set()


def _spread(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return max(known) - min(known) if known else 0.0


def _cards(
    runs: Sequence[Run], columns: Sequence[Column], class_names: Sequence[str]
) -> list[Card]:
    """Return the images that several galleries show, with the predictions side by side."""
    found: dict[str, dict[int, GalleryImage]] = {}
    for index, run in enumerate(runs):
        for image in run.gallery:
            found.setdefault(image.key, {})[index] = image
    cards = []
    for key, images in found.items():
        if len(images) < 2:
            continue
        first = next(iter(images.values()))
        maps = {"truth": first.truth}
        maps |= {
            f"{columns[i].letter}, {columns[i].model}": image.prediction
            for i, image in images.items()
        }
        facts = "mIoU " + ", ".join(
            f"{columns[i].letter} {number(im.miou)}" for i, im in images.items()
        )
        cards.append(gallery_card(key, first.image, maps, class_names, facts))
    return cards
