"""The page of several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sseg_core.evaluation.report.compare import Run, write_comparison_page
from sseg_core.evaluation.report.scores import ScoresReport


@pytest.fixture
def runs(report: ScoresReport) -> list[Run]:
    """Two runs of the same setting; the second is better by class, by image and overall."""
    better = {**report.stats, "model": "run:v3", "miou": 47.68, "miou_interval": [44.0, 51.0]}
    better["iou"] = {"gone": None, **report.stats["iou"], "cat": 90.25, "background": 80.5}
    images = {"photo-1": 20.0, "photo-2": 50.0, "photo-3": 60.0}
    return [
        Run(reference="first:v1", stats=report.stats, image_miou=images, gallery=report.gallery),
        Run(
            reference="second:v4",
            stats=better,
            image_miou={**images, "photo-1": 75.0, "photo-2": 48.0, "photo-9": 99.0},
            gallery=report.gallery[:1],
        ),
    ]


def _page(
    path: Path,
    runs: Sequence[Run],
    report: ScoresReport,
    parse: Callable[[Path], Any],
    paired: dict[tuple[int, int], tuple[float, float, float]] | None = None,
) -> Any:
    write_comparison_page(
        path / "c.html", runs, paired or {}, class_names=report.class_names, version="0.1.0"
    )
    return parse(path / "c.html")


def test_runs_of_one_setting_compare(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """There is no warning; each score stands with its interval, the difference with its own."""
    paired = {(1, 0): (5.0, 2.25, 7.75)}
    page = _page(tmp_path, runs, report, parse, paired)
    assert "Benchmark, split, images and protocol are the same in every run." in page.text
    assert "do not compare" not in page.text
    for expected in ("42.7 (39.1 to 46.2)", "47.7 (44.0 to 51.0)", "+5.0 (+2.2 to +7.8)"):
        assert expected in page.text
    assert "B less A more than chance" in page.text
    assert [tag for tag in page.all("td") if tag.get("class") == "best"]


def test_a_difference_whose_interval_holds_zero_may_be_chance(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """It is not sold as one."""
    page = _page(tmp_path, runs, report, parse, {(1, 0): (5.0, -0.1, 10.1)})
    assert "B less A may be chance" in page.text


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"benchmark": "context"}, "benchmark"),
        ({"split": "train"}, "split"),
        ({"images": 99}, "images"),
        ({"protocol": {"name": "tcl", "version": 1}}, "protocol"),
        ({"protocol": {"name": "sclip", "version": 1, "threshold": 0.5}}, "threshold"),
    ],
)
def test_runs_of_different_settings_do_not_compare(
    tmp_path: Path,
    runs: list[Run],
    report: ScoresReport,
    parse: Callable[[Path], Any],
    change: dict[str, Any],
    name: str,
) -> None:
    """The page warns at its top and says what differs."""
    other = dataclasses.replace(runs[1], stats={**runs[1].stats, **change})
    text = _page(tmp_path, [runs[0], other], report, parse).text
    warning = text[text.index("do not compare as they stand") : text.index("See what differs")]
    assert name in warning
    assert "differs A B" in text


def test_classes_and_images_stand_by_how_much_they_differ(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Largest differences first; images that a run lacks, or that are equal, are not listed."""
    page = _page(tmp_path, runs, report, parse)
    spreads = [row["data-spread"] for row in page.all("tr") if "data-spread" in row]
    assert spreads == ["30.0000", "8.0000", "0.0000", "0.0000", "0.0000", "0.0000", "", ""]
    assert "gains most over A cat +30.0" in page.text
    assert "loses most to A background \u22128.0" in page.text
    assert "photo-1 20.0 75.0 55.0 photo-2 50.0 48.0 2.0" in page.text
    assert "photo-9" not in page.text
    assert "photo-3" not in page.text


def test_images_of_several_galleries_stand_side_by_side(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Truth and each run's prediction of an image that several runs show."""
    page = _page(tmp_path, runs, report, parse)
    titles = [str(image["alt"]) for image in page.all("img")]
    assert titles == ["truth: photo-1", "A, clip:<ViT>: photo-1", "B, run:v3: photo-1"]


def test_many_runs_of_several_benchmarks_make_a_page(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Runs without a common class, image or score still stand side by side, each with a letter."""
    bare = {"benchmark": "context", "split": "val", "model": "x", "images": 1, "miou": None}
    strangers = [Run(reference=f"r{n}", stats=bare, image_miou={}) for n in range(28)]
    page = _page(tmp_path, [runs[0], *strangers], report, parse, {(1, 0): (float("nan"),) * 3})
    assert "29 runs compared" in page.text
    assert "A1" in page.text.split()
    assert not page.all("img")


def test_strange_names_stay_text(
    tmp_path: Path, runs: list[Run], report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Markup in classes, models, references and keys is shown, not obeyed."""
    evil = '"><script>alert(1)</script>\u202e'
    stats = {**runs[1].stats, "model": evil, "protocol": {"name": evil, evil: [evil] * 4}}
    other = dataclasses.replace(
        runs[1], reference=evil, stats=stats, image_miou={**runs[1].image_miou, evil: 1.0}
    )
    first = dataclasses.replace(runs[0], image_miou={**runs[0].image_miou, evil: 9.0})
    page = _page(tmp_path, [first, other], report, parse)
    assert len(page.all("script")) == 1
    assert page.text.count("<script>alert(1)</script>") > 8
    assert "\u202e" not in page.html
