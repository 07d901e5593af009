"""The page of one run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sseg_core.evaluation.report.scores import ScoresReport, write_scores_page
from sseg_core.inference.render import class_colors


def _page(path: Path, report: ScoresReport, parse: Callable[[Path], Any]) -> Any:
    write_scores_page(path / "report.html", report)
    return parse(path / "report.html")


def _with(report: ScoresReport, **stats: Any) -> ScoresReport:
    return dataclasses.replace(report, stats={**report.stats, **stats})


def test_the_page_tells_every_figure(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Scores with their interval, the subset, the speed, the protocol, the lineage, the command."""
    text = _page(tmp_path, report, parse).text
    for expected in (
        "42.7",
        "39.1 to 46.2",
        "mIoU, objects 33.5",
        "55.5",
        "61.3",
        "77.8",
        "31.4",
        "3.5 %",
        "3.14",
        "2,048 MB",
        "sclip, version 1",
        "min share not set",
        "5 values",
        "checkpoint run:v3 sha256:0a1b",
        "learned from <b>pairs</b>",
        "2 ( damaged <png> )",
        report.command,
    ):
        assert expected in text.replace("  ", " "), expected


def test_what_weakens_a_score_is_said_at_its_top(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """A threshold tuned on the split, a changed protocol, a part of the images are warnings."""
    text = _page(tmp_path, _with(report, limit=100), parse).text
    head = text[: text.index("39.1 to 46.2")]
    assert "Tuned on this split." in head
    assert "Changed by the user: threshold" in head
    assert "Images left out" in head
    assert "Not the whole split." in head


def test_a_plain_score_has_no_warnings(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """What was not tuned, changed, left out, swept or checked is not spoken of."""
    protocol = {"name": "sseg", "version": 1, "tuned_on_split": False, "changed": []}
    plain = _with(report, protocol=protocol, skipped={}, sweep=None)
    page = _page(tmp_path, plain, parse)
    assert not [tag for _, tag in page.tags if tag.get("class") == "warning"]
    assert "threshold" not in page.text.lower()
    assert "published" not in page.text.lower()


def test_a_score_of_nothing_is_a_dash(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Where no pixel counts there is no score, no interval and no image."""
    empty = dataclasses.replace(report, gallery=[], confusion=np.zeros((7, 8), np.int64))
    empty = _with(empty, miou=None, miou_interval=[None, None], iou=dict.fromkeys(report.labels))
    page = _page(tmp_path, empty, parse)
    assert "does not occur" in page.text
    assert "interval" not in page.text
    assert "No pixel that counts was wrong." in page.text
    assert not page.all("img")


def test_the_page_asks_nothing_of_anyone(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Pictures are data URIs, links stay inside, and a policy forbids everything else."""
    page = _page(tmp_path, report, parse)
    assert all(str(image["src"]).startswith("data:image/webp;") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert not page.all("link")
    assert not re.search(r"https?://|@import|url\(", page.html)
    policies = [str(tag["content"]) for tag in page.all("meta") if "http-equiv" in tag]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")


def test_strange_names_stay_text(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Markup is shown, not obeyed; characters that turn the direction of text are replaced."""
    page = _page(tmp_path, report, parse)
    assert len(page.all("script")) == 1
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert not [tag for _, tag in page.tags if any(key.startswith("on") for key in tag)]
    assert "\u202e" not in page.html
    assert "dog ?god? {{ 7 * 7 }}" in page.text


def test_a_page_of_names_that_are_no_unicode_can_be_written(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """An unpaired surrogate, as file names may hold, becomes a question mark."""
    gallery = [dataclasses.replace(report.gallery[0], key="photo\udcff\n1")]
    page = _page(tmp_path, dataclasses.replace(report, gallery=gallery), parse)
    assert "photo??1" in page.text


def test_classes_have_the_colours_of_every_picture(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Bars and legends take the colours by which predictions are drawn, background takes none."""
    page = _page(tmp_path, report, parse)
    colors = [f"#{bytes(color).hex()}" for color in class_colors(report.class_names)]
    styles = [str(tag.get("style")) for tag in page.all("span") if tag.get("class") == "swatch"]
    assert {f"background:{color}" for color in colors} <= set(styles)
    chips = [tag for tag in page.all("button") if "data-label" in tag]
    assert chips
    for chip in chips:
        label = int(str(chip["data-label"]))
        assert chip["data-color"] == ("#9aa0aa" if label < 0 else colors[label])


def test_classes_stand_by_iou_and_the_absent_last(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """The best class is the first row; one without a score says so and is the last."""
    rows = [row for row in _page(tmp_path, report, parse).all("tr") if "data-iou" in row]
    assert [row["data-iou"] for row in rows] == [
        "88.5",
        "60.25",
        "50.0",
        "40.0",
        "12.34",
        "5.0",
        "",
    ]


def test_the_curve_leaves_out_what_has_no_score(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """The curve runs through the thresholds with a score and marks the best as tuned."""
    page = _page(tmp_path, report, parse)
    points = str(page.all("polyline")[0]["points"]).split()
    assert [len(points), points[0], points[3]] == [10, "0.00,77.78", "30.00,6.67"]
    slider = next(tag for tag in page.all("input") if tag.get("id") == "threshold")
    assert [slider["max"], slider["value"]] == ["9", "2"]
    assert "0.30, tuned on this split: 42.0 %" in page.text


@pytest.mark.parametrize("comparable", [True, False])
def test_a_published_figure_is_never_shown_as_ours(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any], comparable: bool
) -> None:
    """It stands in a section of its own, with its source, the verdict and the reasons."""
    verdict = (
        {"verdict": "above", "difference": 3.9, "tolerance": 3.57, "tolerance_rule": "the rule"}
        if comparable
        else {"verdict": "not comparable", "reasons": ["100 images were scored, not 1449"]}
    )
    check = {
        **verdict,
        "row": "table3:CLIP",
        "published_miou": 38.8,
        "published_in": "the paper, Table 3",
        "published_iou": {"cat": 61.0},
        "remarks": ["a remark"],
    }
    text = _page(tmp_path, _with(report, check=check), parse).text
    section = text[text.rindex("As published") : text.rindex("How it was measured")]
    assert "38.8" not in text.replace(section, "")
    assert "mIoU as published, not ours 38.8 % mIoU measured here 42.7 %" in section
    assert "cat 61.0 60.2" in section
    assert "a remark" in section
    assert ("+3.90 points; tolerance 3.57, the rule" in section) == comparable
    assert ("100 images were scored, not 1449" in section) != comparable


def test_a_row_that_the_paper_does_not_have(
    tmp_path: Path, report: ScoresReport, parse: Callable[[Path], Any]
) -> None:
    """Then there is no figure, only the reason."""
    check = {"verdict": "not comparable", "row": "auto", "reasons": ["no figure of it"]}
    text = _page(tmp_path, _with(report, check=check), parse).text
    assert "no figure of it" in text
    assert "as published, not ours" not in text


def test_sixteen_photos_fit_into_three_megabytes(tmp_path: Path, report: ScoresReport) -> None:
    """Photos of 640 pixels with thousands of patches each, and label maps of as many."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = coarse.repeat(8, axis=0).repeat(8, axis=1)
    maps = generator.integers(-1, 6, (2, 60, 80)).astype(np.int16).repeat(8, 1).repeat(8, 2)
    image = dataclasses.replace(report.gallery[0], image=photo, truth=maps[0], prediction=maps[1])
    write_scores_page(tmp_path / "r.html", dataclasses.replace(report, gallery=[image] * 16))
    assert (tmp_path / "r.html").stat().st_size < 3e6
