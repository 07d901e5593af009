"""The demo's HTML report."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.data.toyworld import CLASS_COLORS, CLASSES, render_scene
from sseg_core.evaluation.report.demo import DemoReport, GalleryRow, write_report


@pytest.fixture
def report() -> DemoReport:
    scene = render_scene(0, 0, 48, "val")
    prediction = scene.label_map.astype(np.int16)
    prediction[:24] = -1
    row = GalleryRow(
        image=scene.image,
        pseudo_mask=np.arange(64).reshape(8, 8) // 16,
        prediction=prediction,
        truth=scene.label_map,
        caption="A minion & a <b>boat</b>.",
    )
    return DemoReport(
        class_names=CLASSES,
        class_colors=CLASS_COLORS,
        miou=78.44,
        miou_objects=71.23,
        pixel_accuracy=93.12,
        oracle_miou=83.57,
        iou={name: 50.0 + index for index, name in enumerate(CLASSES)},
        train_images=6000,
        val_images=200,
        seconds=407.2,
        images_per_second=151.3,
        metrics=[
            {"step": step, "loss": 9.0 - step / 20, "contrastive": 2.0, "dice": 0.5, "focal": 0.1}
            for step in range(0, 100, 10)
        ],
        gallery=[row],
        commands=["sseg download toyworld", 'sseg train --set "a=<1>"'],
        next_commands=["sseg predict photo.jpg --classes tiger"],
        version="0.1.0",
    )


@pytest.fixture
def written(tmp_path: Path, parse: Callable[[Path], Any]) -> Callable[[DemoReport], Any]:
    """Return a function that writes a report and reads the page."""

    def write(report: DemoReport) -> Any:
        write_report(tmp_path / "report.html", report)
        return parse(tmp_path / "report.html")

    return write


def test_the_report_holds_its_numbers(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """Headline numbers, class scores, commands and the version can be read in the page."""
    page = written(report)
    text = page.text
    for expected in ("78.4", "71.2", "93.1", "83.6", "6 min 47 s", "151", "6000", "200", "0.1.0"):
        assert expected in text
    for name, value in report.iou.items():
        assert f"{name} {value:.1f}" in text
    for command in (*report.commands, *report.next_commands):
        assert command in text
    assert "of the pixels right" in text


def test_the_report_needs_nothing_from_outside(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """No scripts, no links, no addresses: every source is a data URI."""
    page = written(report)
    assert not {"script", "link", "iframe", "a"} & {name for name, _ in page.tags}
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert not re.search(r"https?://|url\(|@import", page.html)


def test_strange_names_and_captions_stay_text(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """Markup in class names, captions and commands is shown, not obeyed."""
    evil = '"><script>alert(1)</script>'
    strange = dataclasses.replace(
        report,
        class_names=(evil, *CLASSES[1:]),
        iou={evil: 1.0},
        gallery=[dataclasses.replace(report.gallery[0], caption=evil)],
        commands=[evil],
    )
    page = written(strange)
    assert "<script" not in page.html
    assert page.text.count(evil) == 4
    assert all(str(image["alt"]).endswith(evil) for image in page.all("img"))


def test_the_gallery_shows_four_pictures_a_row(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """Scene, pseudo-mask, prediction and truth, the last two in the colours of the legend."""
    page = written(report)
    pictures = []
    for image in page.all("img"):
        encoded = str(image["src"]).partition("base64,")[2]
        opened = Image.open(io.BytesIO(base64.b64decode(encoded)))
        pictures.append(np.asarray(opened.convert("RGB")))
        assert image["alt"]
    scene, segments, prediction, truth = pictures
    row = report.gallery[0]
    assert np.abs(scene.astype(int) - row.image).mean() < 10
    assert segments.shape == row.image.shape
    np.testing.assert_array_equal(truth, CLASS_COLORS[row.truth])
    np.testing.assert_array_equal(prediction[24:], truth[24:])
    assert not prediction[:24].any()


def test_segments_are_shown_in_their_mean_colour(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """A pseudo-mask on a coarse grid is spread over the scene, with white lines between."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = (100, 200, 50)
    image[0, 0] = 64
    row = dataclasses.replace(
        report.gallery[0],
        image=image,
        pseudo_mask=np.array([[0, 1]]),
        prediction=np.zeros((8, 8), int),
        truth=np.zeros((8, 8), int),
    )
    page = written(dataclasses.replace(report, gallery=[row]))
    encoded = str(page.all("img")[1]["src"]).partition("base64,")[2]
    segments = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(segments[5], [[2] * 3] * 4 + [[255] * 3] + [[100, 200, 50]] * 3)


def test_curves_run_from_the_first_to_the_last_step(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """Each logged loss has its curve, which ends at the right edge and stays inside."""
    page = written(report)
    curves = page.all("polyline")
    assert len(curves) == 4
    points = [point.split(",") for point in str(curves[0]["points"]).split()]
    assert [len(points), float(points[0][0]), float(points[-1][0])] == [10, 0.0, 300.0]
    heights = [float(y) for _, y in points]
    assert heights == sorted(heights)
    assert 0 <= heights[0] <= heights[-1] <= 120


@pytest.mark.parametrize(
    "metrics",
    [[], [{"step": 0, "loss": 1.0}], [{"step": s, "loss": math.nan} for s in range(5)]],
)
def test_a_report_without_curves_or_gallery(
    report: DemoReport, written: Callable[[DemoReport], Any], metrics: list[dict[str, float]]
) -> None:
    """Too few or non-finite values leave the curve out; an empty gallery leaves its section out."""
    page = written(dataclasses.replace(report, metrics=metrics, gallery=[]))
    assert not page.all("polyline")
    assert not page.all("img")
    assert "Training" not in page.text


def test_long_logs_are_thinned(report: DemoReport, written: Callable[[DemoReport], Any]) -> None:
    """A run of many records gives a curve of at most a few hundred points, its end included."""
    metrics = [{"step": step, "loss": 1.0} for step in range(100_000)]
    page = written(dataclasses.replace(report, metrics=metrics))
    points = str(page.all("polyline")[0]["points"]).split()
    assert 200 <= len(points) <= 302
    assert points[-1].startswith("300.0,")


def test_a_class_that_does_not_occur_says_so(
    report: DemoReport, written: Callable[[DemoReport], Any]
) -> None:
    """A missing score is words, not a number."""
    page = written(dataclasses.replace(report, iou={"sun": None}))
    assert "does not occur" in page.text
