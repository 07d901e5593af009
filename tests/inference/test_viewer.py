"""What the viewer holds of an image, and how the page is written."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.inference.render import class_colors
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.viewer import viewer_card, write_viewer

_NAMES = ("cat", "dog", "sky", "sea")


def _segmentation(
    label_map: np.ndarray, names: tuple[str, ...] = _NAMES, *, sure: bool = True
) -> Segmentation:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*label_map.shape, 3), dtype=np.uint8)
    probabilities = generator.random(label_map.shape, dtype=np.float32) if sure else None
    return Segmentation(label_map.astype(np.int16), probabilities, names, image)


def _labels(card: dict[str, Any]) -> np.ndarray:
    """The label map as the page unpacks it, in class indices."""
    body = card["body"]
    raw = zlib.decompress(base64.b64decode(body["labels"]))
    places = np.frombuffer(raw, {1: "u1", 2: "<u2"}[body["bytes"]])
    indices = np.array([entry["index"] for entry in card["head"]["legend"]])
    return indices[places].reshape(body["height"], body["width"])


def _picture(uri: str) -> Image.Image:
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def _page(cards: list[str], **facts: Any) -> str:
    stream = io.StringIO()
    values = {"model": "demo:v1", "class_names": _NAMES, "total": len(cards), **facts}
    write_viewer(stream, cards, **values)
    return stream.getvalue()


class _Scripts(HTMLParser):
    """Collects the texts of scripts by their class, and counts the other tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str | None, list[str]] = {}
        self.tags: list[str] = []
        self._inside: list[str] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "script":
            values = dict(attrs)
            self._inside = self.texts.setdefault(values.get("class") or values.get("id"), [])

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self._inside.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = None


@pytest.mark.parametrize("count", [4, 256, 257, 1203])
def test_the_label_map_comes_back_exactly(count: int) -> None:
    """With few classes and with more than a byte can number, background among them."""
    names = tuple(f"class {index}" for index in range(count))
    labels = np.random.default_rng(1).integers(-1, count, (70, 90))
    labels[0, : min(count, 90)] = np.arange(min(count, 90))
    line = viewer_card("a.jpg", _segmentation(labels, names))
    assert "\n" not in line
    np.testing.assert_array_equal(_labels(json.loads(line)), labels)


def test_the_legend_tells_area_and_probability() -> None:
    """Largest area first, then background; of each class the numbers that a loop counts."""
    labels = np.random.default_rng(2).choice([-1, 0, 2, 3], (40, 50), p=[0.5, 0.1, 0.3, 0.1])
    segmentation = _segmentation(labels)
    legend = json.loads(viewer_card("a.jpg", segmentation))["head"]["legend"]
    assert [entry["index"] for entry in legend[1:]] in ([0, 3, -1], [3, 0, -1])
    assert [entry["name"] for entry in (legend[0], legend[-1])] == ["sky", "background"]
    assert legend[1]["share"] >= legend[2]["share"]
    for entry in legend:
        where = labels == entry["index"]
        assert entry["share"] == pytest.approx(where.sum() / where.size, abs=1e-12)
        if entry["index"] >= 0:
            assert segmentation.probabilities is not None
            mean = segmentation.probabilities[where].mean(dtype=np.float64)
            assert entry["probability"] == pytest.approx(mean, abs=1e-6)
            assert entry["color"] == f"#{bytes(class_colors(_NAMES)[entry['index']]).hex()}"
        else:
            assert entry["probability"] is None


def test_a_model_that_tells_no_probability_has_none() -> None:
    """Then the legend has areas alone."""
    legend = json.loads(viewer_card("a", _segmentation(np.zeros((4, 4)), sure=False)))["head"]
    assert [entry["probability"] for entry in legend["legend"]] == [None]


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((900, 2560), (450, 1280)), ((30, 20), (30, 20)), ((4000, 1), (1280, 1)), ((1, 1), (1, 1))],
)
def test_large_photos_are_made_smaller(shape: tuple[int, int], shown: tuple[int, int]) -> None:
    """Photo and label map together, to 1280 pixels; small ones keep their size."""
    labels = np.zeros(shape, np.int16)
    labels[shape[0] // 2 :] = 1
    image = np.where(labels[..., None] == 1, np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    card = json.loads(viewer_card("a", Segmentation(labels, None, _NAMES, image)))
    assert (card["head"]["height"], card["head"]["width"]) == shape
    photo = _picture(card["body"]["photo"])
    assert (photo.height, photo.width) == (card["body"]["height"], card["body"]["width"]) == shown
    assert ((np.asarray(photo.convert("L")) > 127) == (_labels(card) == 1)).mean() > 0.98


def test_the_small_picture_has_the_colours_of_the_classes() -> None:
    """Over the photo, which shows alone where background is."""
    labels = np.full((300, 400), -1, np.int16)
    labels[:, 200:] = 1
    image = np.full((300, 400, 3), 200, np.uint8)
    card = json.loads(viewer_card("a", Segmentation(labels, None, _NAMES, image)))
    thumb = np.asarray(_picture(card["head"]["thumb"]), dtype=float)
    assert thumb.shape == (108, 144, 3)
    np.testing.assert_allclose(thumb[:, :60].mean(axis=(0, 1)), 200, atol=3)
    blend = 0.6 * class_colors(_NAMES)[1] + 0.4 * 200.0
    np.testing.assert_allclose(thumb[:, 90:].mean(axis=(0, 1)), blend, atol=6)


@pytest.mark.parametrize(
    ("name", "folder", "title"),
    [
        ("photos/a.jpg", "photos/", "a.jpg"),
        ("C:\\photos\\a.jpg", "C:\\photos\\", "a.jpg"),
        ("https://example.org/a.jpg", "https://example.org/", "a.jpg"),
        ("-", "", "-"),
        ("folder/", "", "folder/"),
        ("\u202egpj\x1b[0m\udcff.exe", "", "?gpj?[0m?.exe"),
    ],
)
def test_a_name_is_told_from_its_folder(name: str, folder: str, title: str) -> None:
    """And has no character that a page or a terminal would obey."""
    head = json.loads(viewer_card(name, _segmentation(np.zeros((3, 3)))))["head"]
    assert (head["folder"], head["title"]) == (folder, title)


def test_the_page_holds_the_cards_as_they_are() -> None:
    """Whatever the names are, no script ends early, and no tag comes in."""
    names = (
        "</script><img src=x onerror=alert(1)>",
        "<!-- <script>",
        "{{ 7 * 7 }} &amp;",
        "a\u2028",
    )
    card = viewer_card("<b>x</b>.jpg", _segmentation(np.arange(4).reshape(2, 2), names))
    page = _page([card, card], model="<i>demo</i>", class_names=names)
    scripts = _Scripts(page)
    assert scripts.tags.count("script") == 1 + 2 * 2 + 1
    assert not {"img", "b", "i"} & set(scripts.tags)
    assert [len(scripts.texts[kind]) for kind in ("head", "body")] == [2, 2]
    assert json.loads(scripts.texts["head"][1]) == json.loads(card)["head"]
    assert json.loads(scripts.texts["body"][0]) == json.loads(card)["body"]
    assert json.loads(scripts.texts["asked"][0]) == [*names[:3], "a?"]


def test_the_page_forbids_every_connection() -> None:
    """By a policy; it names no address, and its pictures are its own."""
    page = _page([viewer_card("a", _segmentation(np.zeros((3, 3))))])
    assert re.findall(r"http-equiv=\"([^\"]+)\" content=\"default-src 'none'; ", page) == [
        "Content-Security-Policy"
    ]
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_page_says_what_it_lacks() -> None:
    """Of more images than it has cards, and only then."""
    card = viewer_card("a", _segmentation(np.zeros((3, 3))))
    assert "This page shows the first 2 of 3,000 images." in _page([card] * 2, total=3000)
    assert "This page shows" not in _page([card] * 2)


def test_cards_are_written_one_by_one() -> None:
    """Each is in the stream before the next is asked for."""
    stream = io.StringIO()
    written = []

    def cards() -> Iterator[str]:
        for index in range(3):
            written.append(stream.getvalue().count('class="body"'))
            yield viewer_card(f"{index}.jpg", _segmentation(np.zeros((3, 3))))

    write_viewer(stream, cards(), model="m", class_names=_NAMES, total=3)
    assert written == [0, 1, 2]


def test_it_needs_no_torch() -> None:
    """An exported model writes the page with NumPy, Pillow and jinja2 alone."""
    code = (
        "import io, sys, numpy as np\n"
        "from sseg_core.inference.segmentation import Segmentation\n"
        "from sseg_core.inference.viewer import viewer_card, write_viewer\n"
        "pixels = np.zeros((8, 8, 3), np.uint8)\n"
        "card = viewer_card('a', Segmentation(np.zeros((8, 8), np.int16), None, ('x',), pixels))\n"
        "write_viewer(io.StringIO(), [card], model='m', class_names=['x'], total=1)\n"
        "print(sorted({'torch', 'pydantic', 'pycocotools', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run(  # noqa: PLW1510 - the output is the assertion
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
