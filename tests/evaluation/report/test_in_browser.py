"""The pages as a reader has them: in headless Chromium, with pointer, finger and keyboard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sseg_core.evaluation.report.compare import Run, write_comparison_page
from sseg_core.evaluation.report.scores import ScoresReport, write_scores_page

_PIXEL = """(canvas, [x, y]) => {
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -x, -y);
  return [...copy.getImageData(0, 0, 1, 1).data];
}"""
_CAT, _OTHER, _SKY = (100, 100), (300, 100), (100, 280)  # in a picture; `_SKY` is background
_CLEAR, _DIM = [0, 0, 0, 0], 180  # a pixel of the photo as it is; opacity of what is not lit


@contextmanager
def _open(browser: Any, path: Path, width: int = 1200, **options: Any) -> Iterator[Any]:
    """Open a page; leave only if it asked for nothing but itself and complained of nothing."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.set_default_timeout(10_000)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    page.goto(path.as_uri())
    cards = page.locator(".photo").count()
    page.wait_for_function(f"document.querySelectorAll('[data-ready]').length === {cards}")
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]


@pytest.fixture
def scores(tmp_path: Path, report: ScoresReport) -> Path:
    write_scores_page(tmp_path / "scores.html", report)
    return tmp_path / "scores.html"


@pytest.fixture
def comparison(tmp_path: Path, report: ScoresReport) -> Path:
    images = {image.key: float(index) for index, image in enumerate(report.gallery)}
    runs = [
        Run(
            reference=f"run:v{number}",
            stats={**report.stats, "model": "model " * 20, "split": f"part {number}"},
            image_miou={key: value * number for key, value in images.items()},
            gallery=report.gallery,
        )
        for number in (1, 2, 3)
    ]
    paired = {(1, 0): (1.0, -0.5, 2.5), (2, 0): (2.0, 1.0, 3.0)}
    path = tmp_path / "comparison.html"
    write_comparison_page(path, runs, paired, class_names=report.class_names, version="0.1.0")
    return path


def _pixel(page: Any, place: tuple[int, int], panel: int = 0) -> list[int]:
    canvas = page.locator(".photo").first.locator("canvas").nth(panel)
    pixel: list[int] = canvas.evaluate(_PIXEL, list(place))
    return pixel


def _point(page: Any, place: tuple[int, int], panel: int = 0, *, click: bool = False) -> None:
    canvas = page.locator(".photo").first.locator("canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = {"x": place[0] * box["width"] / 400, "y": place[1] * box["height"] / 320}
    (canvas.click if click else canvas.hover)(position=at)


def _chip(page: Any, name: str) -> Any:
    return page.locator(".photo").first.locator(".chip", has_text=name)


def test_names_are_text_in_the_page(browser: Any, scores: Path) -> None:
    """Every class name can be read as it is, and none of them ran."""
    with _open(browser, scores) as page:
        names = page.locator(".classes tbody bdi").all_text_contents()
        assert "<script>alert(1)</script>" in names
        assert '"onmouseover="alert(2)' in names
        assert "dog ?god? {{ 7 * 7 }}" in names
        page.get_by_text('"onmouseover="alert(2)').first.hover()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("which", ["scores", "comparison"])
def test_no_page_is_wider_than_its_window(
    browser: Any, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    """On a phone as on a desk, in light and dark, nothing scrolls sideways but wide tables."""
    path = request.getfixturevalue(which)
    with _open(browser, path, width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 18, 22)"}[scheme]


def test_label_maps_are_painted_in_the_colours_of_the_legend(browser: Any, scores: Path) -> None:
    """Classes have their colour, background is the photo itself, other pixels are striped."""
    with _open(browser, scores) as page:
        for name, place in (("cat", _CAT), ("alert(1)", _OTHER)):
            red, green, blue, alpha = _pixel(page, place)
            assert _chip(page, name).get_attribute("data-color") == (
                f"#{red:02x}{green:02x}{blue:02x}"
            )
            assert alpha == 255
        assert _pixel(page, _SKY) == _CLEAR
        assert {tuple(_pixel(page, (x, 2))) for x in range(8)} == {
            (0, 0, 0, 0),
            (140, 140, 140, 255),
        }


def test_the_slider_fades_the_label_maps(browser: Any, scores: Path) -> None:
    """Moving it changes the opacity of every picture, by keyboard too."""
    opacities = "[...document.querySelectorAll('canvas')].map(c => getComputedStyle(c).opacity)"
    with _open(browser, scores) as page:
        assert set(page.evaluate(opacities)) == {"0.6"}
        slider = page.locator("#opacity")
        slider.fill("25")
        assert set(page.evaluate(opacities)) == {"0.25"}
        slider.focus()
        page.keyboard.press("End")
        assert set(page.evaluate(opacities)) == {"1"}


def test_pointing_at_a_picture_lights_its_class_in_both(browser: Any, scores: Path) -> None:
    """Other classes go dark in truth and prediction; the captions say what each has there."""
    with _open(browser, scores) as page:
        _point(page, _CAT)
        for panel in (0, 1):
            assert _pixel(page, _CAT, panel)[3] == 255
            assert _pixel(page, _OTHER, panel)[3] == _DIM
            assert _pixel(page, _SKY, panel)[3] == _DIM
        assert "lit" in _chip(page, "cat").get_attribute("class").split()
        captions = page.locator(".photo").first.locator("figcaption").all_inner_texts()
        assert captions == ["truth\ncat", "prediction\ncat"]
        page.mouse.move(2, 2)
        assert _pixel(page, _SKY) == _CLEAR


def test_a_click_holds_a_class_until_escape(browser: Any, scores: Path) -> None:
    """Clicked in the picture or the legend, it stays lit when the pointer has gone."""
    with _open(browser, scores) as page:
        for click in (lambda: _point(page, _CAT, 1, click=True), _chip(page, "cat").click):
            click()
            page.mouse.move(2, 2)
            assert _pixel(page, _OTHER)[3] == _DIM
            assert _chip(page, "cat").get_attribute("aria-pressed") == "true"
            page.keyboard.press("Escape")
            assert _pixel(page, _OTHER)[3] == 255
            assert _chip(page, "cat").get_attribute("aria-pressed") == "false"


def test_the_legend_is_walked_with_the_arrow_keys(browser: Any, scores: Path) -> None:
    """The Tab key reaches one name of an image; arrows light the next; Enter holds it."""
    with _open(browser, scores) as page:
        page.locator("#mistakes").focus()
        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.title")
        assert page.locator(".photo").first.get_attribute("data-lit") == first
        page.keyboard.press("ArrowRight")
        second = page.evaluate("document.activeElement.title")
        assert page.locator(".photo").first.get_attribute("data-lit") == second != first
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.locator(".photo").nth(1).evaluate("p => p.contains(document.activeElement)")
        assert page.locator(".photo").first.get_attribute("data-lit") == second


def test_only_mistakes_can_be_shown(browser: Any, scores: Path) -> None:
    """What is right becomes clear; what is wrong keeps its colour in truth and prediction."""
    with _open(browser, scores) as page:
        page.locator("#mistakes").check()
        assert _pixel(page, _CAT) == _pixel(page, _CAT, 1) == _CLEAR
        for panel in (0, 1):
            assert _pixel(page, (203, 100), panel)[3] == 255  # moved by 8 pixels in the prediction


def test_a_tap_on_a_phone_lights_a_class(browser: Any, scores: Path) -> None:
    """A finger has no hover: a tap holds a class, a second one lets go."""
    with _open(browser, scores, 390, has_touch=True, is_mobile=True) as page:
        canvas = page.locator("canvas").first
        canvas.tap(position={"x": 60, "y": 80})
        assert page.locator(".photo").first.get_attribute("data-lit") == "cat"
        assert _pixel(page, _OTHER)[3] == _DIM
        canvas.tap(position={"x": 60, "y": 80})
        assert _pixel(page, _OTHER)[3] == 255


def test_classes_are_sorted_and_found(browser: Any, scores: Path) -> None:
    """By IoU, name or the benchmark's order, absent ones last; a word narrows the list."""
    names = ".classes tbody tr:not([hidden]) bdi"
    with _open(browser, scores) as page:
        shown = page.locator(names).all_text_contents
        assert (shown()[0], shown()[-1]) == ("background", "never seen")
        page.locator("[data-sort=name]").click()
        assert [name for name in shown() if name.isalpha()] == ["background", "cat"]
        assert shown().index("never seen") > shown().index("cat")
        page.locator("[data-sort=order]").click()
        assert shown()[:2] == ["background", "cat"]
        page.locator("[data-sort=iou]").click()
        assert shown()[-1] == "never seen"
        page.locator("input[type=search]").fill("CAT")
        assert shown() == ["cat"]
        assert page.locator(".count").text_content() == "1 of 7"


def test_the_heat_map_tells_its_cells(browser: Any, scores: Path) -> None:
    """The pointer, a click and the arrow keys tell share and pixels of a cell in words."""
    with _open(browser, scores) as page:
        said = page.locator("#heat-readout")
        rows = page.locator("#heat tbody tr")
        rows.nth(1).locator("td").nth(4).hover()
        assert "33.33 % of its pixels (250)" in said.inner_text()
        assert "cat" in said.inner_text()
        page.mouse.move(2, 2)
        assert "Point at a cell" in said.inner_text()
        page.locator("#heat [tabindex='0']").focus()
        assert "background\u2069 found: 100.00 %" in said.inner_text()
        page.keyboard.press("ArrowRight")
        assert "background\u2069 taken for \u2068cat\u2069: 0 %" in said.inner_text()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowDown")
        assert "cat\u2069 found: 66.67 % of its pixels (500)" in said.inner_text()


def test_the_curve_tells_its_points(browser: Any, scores: Path) -> None:
    """The slider under it and the pointer over it tell the score at a threshold."""
    with _open(browser, scores) as page:
        said = page.locator("#curve-readout")
        assert said.inner_text() == "threshold 0.20: 30.00 % mIoU"
        page.locator("#threshold").focus()
        page.keyboard.press("ArrowRight")
        assert said.inner_text() == "threshold 0.30: 42.00 % mIoU"
        box = page.locator(".plot .box")
        box.scroll_into_view_if_needed()
        edges = box.bounding_box()
        page.mouse.move(edges["x"] + 0.51 * edges["width"], edges["y"] + 50)
        assert said.inner_text() == "threshold 0.50: 30.00 % mIoU"


def test_a_comparison_lights_a_class_in_every_run(browser: Any, comparison: Path) -> None:
    """Truth and three predictions stand side by side and light up together."""
    with _open(browser, comparison) as page:
        assert page.locator(".photo").first.locator("canvas").count() == 4
        _chip(page, "cat").hover()
        assert [_pixel(page, _OTHER, panel)[3] for panel in range(4)] == [_DIM] * 4
        page.locator("[data-sort=first]").click()
        assert page.locator(".classes tbody bdi").first.text_content() == "background"


def test_an_old_browser_is_told_so(browser: Any, scores: Path, report: ScoresReport) -> None:
    """Without the means to unpack label maps the photos stay, and a sentence says why."""
    bare = dataclasses.replace(report, gallery=[])
    write_scores_page(scores.with_name("bare.html"), bare)
    with _open(browser, scores.with_name("bare.html")) as page:
        assert page.locator("#opacity").count() == 0
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(scores.as_uri())
    assert "too old to show label maps" in page.locator(".toolbar").first.inner_text()
    page.close()
