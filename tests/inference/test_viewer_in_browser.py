"""The viewer as its reader has it: in headless Chromium, with pointer, finger and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sseg_core.inference.render import class_colors
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.viewer import viewer_card, write_viewer

_STRANGE = (
    "</script><script>alert(1)</script>",
    '"onmouseover="alert(2)',
    "dog \u202egod\u202c {{ 7 * 7 }}",
    "\u05e9\u05dc\u05d5\u05dd",
    "x" * 10_000,
    "\x1b[31mred",
)
_NAMES = ("cat", "dog", "catfish", *_STRANGE, "unicorn")
_PIXEL = """(canvas, [x, y]) => {
  const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -x, -y);
  return [...copy.getImageData(0, 0, 1, 1).data];
}"""
_FOCUS = """(() => {
  const e = document.activeElement;
  return [e.id || e.dataset.view || e.classList[0] || "thumb", getComputedStyle(e).outlineStyle];
})()"""
_INSIDE = """() => {
  const list = document.getElementById("thumbs").getBoundingClientRect();
  const own = document.querySelector("[aria-current]").getBoundingClientRect();
  return list.left <= own.left && own.right <= list.right
    && list.top <= own.top && own.bottom <= list.bottom;
}"""
_CAT, _DOG, _BACKGROUND = (100, 200), (300, 200), (200, 40)  # pixels of the first image


def _quarters(*labels: int) -> np.ndarray:
    """Background above; below it one region beside the other."""
    label_map = np.full((300, 400), -1, np.int16)
    for place, label in enumerate(labels):
        width = 400 // len(labels)
        label_map[80:, place * width : (place + 1) * width] = label
    return label_map


def _segmentation(label_map: np.ndarray, number: int) -> Segmentation:
    image = np.random.default_rng(number).integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    return Segmentation(label_map, np.full(label_map.shape, 0.8, np.float32), _NAMES, image)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of one image, one of few, and one of many."""
    folder = tmp_path_factory.mktemp("pages")
    maps = [_quarters(0, 1), _quarters(0, 2), _quarters(*range(3, 9)), _quarters(1)]
    cards = [
        viewer_card(f"photos/{number}.jpg", _segmentation(label_map, number))
        for number, label_map in enumerate(maps)
    ]
    small = viewer_card("<b>s", _segmentation(np.full((8, 6), 0, np.int16), 9))
    lists = {"one": cards[:1], "few": cards, "many": [*cards * 62, small], "none": []}
    for name, some in lists.items():
        with (folder / f"{name}.html").open("w", encoding="utf-8") as stream:
            write_viewer(stream, some, model="demo:v1", class_names=_NAMES, total=len(some))
    return folder


@contextmanager
def _open(browser: Any, path: Path, size: tuple[int, int] = (1280, 800), **options: Any) -> Any:
    """Open a page; leave only if it asked for nothing but itself and complained of nothing."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)
    page.set_default_timeout(10_000)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    page.goto(path.as_uri())
    _wait(page, 0)
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]


def _wait(page: Any, image: int) -> None:
    """Until an image is shown."""
    page.wait_for_selector(f"main[data-ready='{image}']")


def _lit(page: Any) -> str:
    name: str = page.locator("main").get_attribute("data-lit")
    return name


def _pressed(page: Any) -> list[str]:
    names: list[str] = page.locator(".row[aria-pressed=true] bdi").all_text_contents()
    return names


def _at(page: Any, place: tuple[int, int]) -> dict[str, float]:
    """A pixel of an image of 400 x 300 as a place in the picture."""
    box = page.locator("#picture").bounding_box()
    return {"x": place[0] / 400 * box["width"], "y": place[1] / 300 * box["height"]}


def _point(page: Any, place: tuple[int, int], *, click: bool = False) -> None:
    picture = page.locator("#picture")
    (picture.click if click else picture.hover)(position=_at(page, place))


def _pixel(page: Any, canvas: str, place: tuple[int, int]) -> list[int]:
    pixel: list[int] = page.locator(canvas).evaluate(_PIXEL, list(place))
    return pixel


@pytest.fixture
def few(browser: Any, pages: Path) -> Iterator[Any]:
    with _open(browser, pages / "few.html") as page:
        yield page


def test_pointing_at_a_region_names_it(few: Any) -> None:
    """With area and probability; the tip follows the pointer, and goes when it leaves."""
    _point(few, _CAT)
    tip = few.locator("#tip")
    assert tip.inner_text().split() == ["cat", "36.7", "%", "\u00b7", "0.80"]
    assert _lit(few) == "cat"
    assert _pressed(few) == []
    box, outer = tip.bounding_box(), few.locator("#picture").bounding_box()
    place = _at(few, _CAT)
    assert abs(box["x"] + box["width"] / 2 - outer["x"] - place["x"]) < 2
    assert 0 < outer["y"] + place["y"] - box["y"] - box["height"] < 30
    _point(few, _BACKGROUND)
    assert tip.inner_text().split()[:2] == ["background", "26.7"]
    few.mouse.move(2, 2)
    assert not tip.is_visible()
    assert _lit(few) == ""


def test_classes_are_painted_in_their_colours(few: Any) -> None:
    """As everywhere in sseg; background is left to the photo."""
    for place, label in ((_CAT, 0), (_DOG, 1)):
        assert _pixel(few, "#classes", place) == [*class_colors(_NAMES)[label].tolist(), 255]
    assert _pixel(few, "#classes", _BACKGROUND)[3] == 0


def test_a_click_isolates_a_class_until_the_next(few: Any) -> None:
    """All else goes dark; other regions are still named; again, or Esc, lets go."""
    for let_go in (lambda: _point(few, _CAT, click=True), lambda: few.keyboard.press("Escape")):
        _point(few, _CAT, click=True)
        assert _pressed(few) == ["cat"]
        _point(few, _DOG)
        assert _lit(few) == "cat"
        assert few.locator("#tip bdi").inner_text() == "dog"
        assert _pixel(few, "#lit", _CAT)[3] == 0
        assert _pixel(few, "#lit", _DOG)[3] == _pixel(few, "#lit", _BACKGROUND)[3] == 199
        assert "on" in few.locator("#lit").get_attribute("class")
        let_go()
        few.mouse.move(2, 2)
        assert _pressed(few) == []
        assert _lit(few) == ""
        assert "on" not in few.locator("#lit").get_attribute("class").split()


def test_a_name_in_the_list_isolates_its_class(few: Any) -> None:
    """The list has what is in the image, largest first; the rest is named below it."""
    rows = few.locator(".row")
    assert [text.split() for text in rows.all_inner_texts()] == [
        ["cat", "36.7", "%", "0.80"],
        ["dog", "36.7", "%", "0.80"],
        ["background", "26.7", "%"],
    ]
    missing = few.locator("#missing").text_content().strip()
    assert missing.startswith("Not found: catfish, ")
    assert missing.endswith("unicorn.")
    assert "dog," not in missing
    rows.nth(1).hover()
    assert _lit(few) == few.locator("#tip bdi").inner_text() == "dog"
    rows.nth(1).click()
    assert _pressed(few) == ["dog"]
    assert few.locator("#said").text_content() == "dog: 36.7 % of the image, mean probability 0.80."


def test_a_class_stays_isolated_from_image_to_image(few: Any) -> None:
    """Where an image lacks it all classes are shown, and it is said."""
    _point(few, _CAT, click=True)
    few.locator("#next").click()
    _wait(few, 1)
    assert _pressed(few) == ["cat"]
    few.keyboard.press("ArrowRight")
    _wait(few, 2)
    assert _pressed(few) == []
    assert few.locator("#said").text_content() == "2.jpg 3 of 4. There is no cat in it."


def test_the_keyboard_reaches_everything(few: Any) -> None:
    """Images, classes, opacity, views, help and search."""
    press = few.keyboard.press
    press("End")
    _wait(few, 3)
    assert few.locator("#next").is_disabled()
    press("Home")
    _wait(few, 0)
    press("ArrowDown")
    press("ArrowDown")
    assert _pressed(few) == ["dog"]
    press("ArrowUp")
    press("ArrowUp")
    assert _pressed(few) == ["background"]
    press("+")
    assert few.locator("#percent").inner_text() == "65 %"
    press("-")
    press("-")
    assert (
        few.locator("main").evaluate("main => main.style.getPropertyValue('--opacity')") == "0.45"
    )
    press("?")
    assert few.locator("#help").is_visible()
    press("Escape")
    assert not few.locator("#help").is_visible()
    assert _pressed(few) == ["background"]  # Esc closed the help and no more
    press("/")
    few.keyboard.type("l-")  # letters, not commands
    assert few.locator("main").get_attribute("data-view") == "both"
    assert few.locator("#percent").inner_text() == "45 %"


def test_the_tab_key_passes_through_all_controls(few: Any) -> None:
    """Each has a name and shows the focus; a class in focus is lit, Enter holds it."""
    seen = []
    for _ in range(12):
        few.keyboard.press("Tab")
        seen.append(few.evaluate(_FOCUS))
        if seen[-1][0] == "row" and "cat" not in _pressed(few):
            assert _lit(few) == "cat"
            few.keyboard.press("Enter")
            assert _pressed(few) == ["cat"]
    names = [name for name, _ in seen]
    for expected in (
        "search",
        "ask",
        "next",
        "opacity",
        "photo",
        "labels",
        "row",
        "spread",
        "thumb",
    ):
        assert expected in names, names
    assert {style for _, style in seen} == {"solid"}
    few.locator(".row").nth(1).focus()
    few.keyboard.press("End")
    _wait(few, 3)
    assert few.evaluate("document.activeElement.className").split()[0] == "row"
    few.keyboard.press("Home")
    _wait(few, 0)
    few.locator("#thumbs [tabindex='0']").focus()
    few.keyboard.press("ArrowRight")
    _wait(few, 1)
    assert few.evaluate("document.activeElement.title") == "1.jpg"


def test_the_slider_and_the_views(few: Any) -> None:
    """The slider fades the classes; photo only and labels only exclude each other."""
    opacity = "getComputedStyle(document.getElementById('classes')).opacity"
    hidden = "getComputedStyle(document.querySelector('#picture img')).visibility"
    few.emulate_media(reduced_motion="reduce")
    few.locator("#opacity").fill("25")
    assert few.evaluate(opacity) == "0.25"
    few.locator("#opacity").focus()
    few.keyboard.press("End")
    assert few.evaluate(opacity) == "1"
    assert few.locator("main").get_attribute("data-ready") == "0"  # End was the slider's
    few.locator("button[data-view=photo]").click()
    assert [few.evaluate(opacity), few.evaluate(hidden)] == ["0", "visible"]
    few.keyboard.press("l")
    assert [few.evaluate(opacity), few.evaluate(hidden)] == ["1", "hidden"]
    few.keyboard.press("l")
    assert few.evaluate(hidden) == "visible"


def test_a_search_leaves_the_images_with_a_class(few: Any) -> None:
    """A whole name or the only match is lit as well; the arrows stay among what was found."""
    few.locator("#search").fill("CAT")
    assert few.locator("#hits").inner_text() == "2 of 4 images"
    assert few.locator("#place").inner_text() == "1 of 2"
    assert _pressed(few) == ["cat"]
    few.locator("#search").fill("dog")
    few.keyboard.press("Enter")
    few.keyboard.press("ArrowRight")
    _wait(few, 2)  # it has a strange name with a dog in it, and no dog
    few.keyboard.press("ArrowRight")
    _wait(few, 3)
    assert _pressed(few) == ["dog"]
    few.locator("#search").fill("catf")
    _wait(few, 1)
    assert _pressed(few) == ["catfish"]
    few.locator("#search").fill("unicorn")
    assert few.locator("#hits").inner_text() == "0 of 4 images"
    few.locator("#search").fill("")
    assert few.locator("#place").inner_text() == "2 of 4"
    assert _pressed(few) == []


def test_strange_names_are_text(few: Any) -> None:
    """None of them ran, turned the line around it, or made the list wider."""
    few.keyboard.press("ArrowRight")
    few.keyboard.press("End")
    few.keyboard.press("ArrowLeft")
    _wait(few, 2)
    names = few.locator(".row bdi").all_text_contents()
    assert set(names[:6]) == {*_STRANGE[:2], "dog ?god? {{ 7 * 7 }}", *_STRANGE[3:5], "?[31mred"}
    for row in few.locator(".row").all():
        row.hover()
        assert row.evaluate("row => row.scrollWidth <= row.clientWidth")
        tip, stage = (few.locator(name).bounding_box() for name in ("#tip", "#stage"))
        assert stage["x"] <= tip["x"]
        assert tip["x"] + tip["width"] <= stage["x"] + stage["width"] + 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 740), (844, 390), (1280, 800)])
@pytest.mark.parametrize("which", ["one", "many"])
def test_no_page_is_wider_than_its_window(
    browser: Any, pages: Path, which: str, size: tuple[int, int], scheme: str
) -> None:
    """On a phone as on a desk, in light and dark; the whole picture is on the screen."""
    with _open(browser, pages / f"{which}.html", size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        box = page.locator("#picture").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)
        assert box["height"] < size[1]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 18, 22)"}[scheme]
        if which == "many":
            page.locator("#spread").click()
            assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_a_finger_taps_and_swipes(browser: Any, pages: Path) -> None:
    """A tap names a class and isolates it, a second lets go; a swipe shows the next image."""
    options = {"has_touch": True, "is_mobile": True}
    with _open(browser, pages / "few.html", (390, 844), **options) as page:
        for lit in ("cat", ""):
            page.locator("#picture").tap(position=_at(page, _CAT))
            assert _lit(page) == lit
            assert page.locator("#tip").is_visible() == bool(lit)
        box = page.locator("#picture").bounding_box()
        touch = page.context.new_cdp_session(page)
        y = box["y"] + box["height"] / 2
        for kind, x in (("Start", 300), ("Move", 200), ("Move", 100), ("End", 100)):
            points = [] if kind == "End" else [{"x": x, "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        _wait(page, 1)
        assert _pressed(page) == []


def test_hundreds_of_images_are_read_when_they_are_shown(browser: Any, pages: Path) -> None:
    """The page has one photo at a time; small ones fill the picture with hard edges."""
    with _open(browser, pages / "many.html") as page:
        assert page.locator("#thumbs img").count() == 249
        assert page.locator("#picture img").count() == 1
        assert "enlarged" in page.locator("#picture").get_attribute("class").split()
        page.keyboard.press("End")
        _wait(page, 248)
        assert page.locator("#picture img").count() == 1
        assert page.locator("#name").inner_text() == "<b>s"
        box = page.locator("#picture").bounding_box()
        assert min(box["width"], box["height"]) > 300
        page.wait_for_function(_INSIDE)
        page.keyboard.press("g")
        page.wait_for_function(_INSIDE)
        page.keyboard.press("Home")
        page.wait_for_function(_INSIDE)


def test_one_image_needs_no_steps(browser: Any, pages: Path) -> None:
    """No strip, no search, no arrows; the keys for them do nothing."""
    with _open(browser, pages / "one.html") as page:
        for name in ("#strip", "#find", "#next", "#previous"):
            assert not page.locator(name).is_visible()
        for key in ("ArrowRight", "End", "g", "/"):
            page.keyboard.press(key)
        assert page.locator("main").get_attribute("data-ready") == "0"
        assert page.locator("#summary").inner_text() == "1 image, asked for 10 classes"


def test_browsers_that_cannot_show_it_are_told(browser: Any, pages: Path) -> None:
    """Without the means to unpack label maps photo and list stay; without scripts a line."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script("delete window.DecompressionStream")
    page.goto((pages / "few.html").as_uri())
    _wait(page, 0)
    assert "too old" in page.locator(".old").inner_text()
    assert not page.locator("#tools").is_visible()
    page.keyboard.press("+")
    page.locator(".row").first.click()
    page.locator("#picture").click()
    assert _pressed(page) == ["cat"]
    page.close()
    assert errors == []
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / "one.html").as_uri())
    assert page.locator("noscript").inner_text().strip() == (
        "This page needs JavaScript to show its images."
    )
    context.close()


def test_a_page_without_images_is_a_page(browser: Any, pages: Path) -> None:
    """It says so, and no key brings it down."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((pages / "none.html").as_uri())
    page.keyboard.press("ArrowRight")
    assert page.locator("#summary").inner_text() == "0 images, asked for 10 classes"
    page.close()
    assert errors == []
