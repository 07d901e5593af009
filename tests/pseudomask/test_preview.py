"""The contact sheet and its page: right pixels, right numbers, nothing obeyed or fetched."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.data.images import encode_jpeg
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.errors import DataError
from sseg_core.pseudomask.label_png import encode_label_map, label_colors
from sseg_core.pseudomask.preview import (
    MaskFacts,
    PreviewSample,
    build_preview,
    preview_samples,
    render_report,
)

EVIL = '"><script>alert(1)</script>'


class _Page(HTMLParser):
    """Collects the images, tag names and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def picture(self, index: int) -> np.ndarray:
        encoded = self.images[index]["src"].partition("base64,")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def _sample(key: str = "dog-1", height: int = 60, width: int = 100) -> PreviewSample:
    """A grey image whose mask has segment 0 on the left half and segment 1 on the right."""
    image = np.full((height, width, 3), 128, np.uint8)
    label_map = np.repeat(np.array([[0, 1]], np.uint8), 4, axis=1).repeat(8, axis=0)
    return PreviewSample(key, image, label_map, f"The caption of {key}.")


@pytest.fixture
def facts() -> MaskFacts:
    return MaskFacts(
        name="flickr",
        features="texture",
        clustering="merge",
        masks=8,
        images=12345,
        skipped={"truncated": 7, "no caption": 30},
        segments_per_image=7.46,
        images_per_second=61.23,
        bytes_per_mask=312.4,
        shards=25,
        version="0.1.0",
    )


def test_every_label_has_the_colour_of_its_png() -> None:
    """The colours for people are those that an image viewer shows of the PNG."""
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shown = Image.open(io.BytesIO(encode_label_map(labels))).convert("RGB")
    np.testing.assert_array_equal(label_colors()[labels], np.asarray(shown))


def test_a_strip_shows_image_mask_and_overlay() -> None:
    """The image as it is, its segments in their colours, and half of each with lines between."""
    sheet = np.asarray(build_preview([_sample()]))
    assert sheet.shape == (18 + 134 + 20 + 18, 18 + 3 * 224 + 2 * 6 + 18, 3)
    photo, mask, overlay = (sheet[18 : 18 + 134, 18 + 230 * n :][:, :224] for n in range(3))
    assert (photo == 128).all()
    colors = label_colors()
    np.testing.assert_array_equal(mask[:, :112], np.broadcast_to(colors[0], (134, 112, 3)))
    np.testing.assert_array_equal(mask[:, 112:], np.broadcast_to(colors[1], (134, 112, 3)))
    assert np.abs(overlay[:, :112] - (128 + colors[0].astype(float)) / 2).max() <= 1
    assert np.abs(overlay[:, 113:] - (128 + colors[1].astype(float)) / 2).max() <= 1
    assert (overlay[:, 112] == 255).all()


def test_pixels_without_a_segment_keep_the_photo() -> None:
    """The label 255 tints nothing."""
    sample = _sample()
    label_map = np.full_like(sample.label_map, 255)
    sheet = np.asarray(build_preview([dataclasses.replace(sample, label_map=label_map)]))
    assert (sheet[18 : 18 + 134, 18 + 460 : 18 + 460 + 224] == 128).all()


def test_samples_of_any_shape_stand_in_rows() -> None:
    """Five samples, two to a row: three rows, each as high as its highest picture."""
    shapes = [(60, 100), (100, 60), (1, 300), (300, 1), (4000, 3000)]
    samples = [_sample(f"s{n}", *shape) for n, shape in enumerate(shapes)]
    sheet = build_preview(samples)
    assert sheet.size == (2 * (18 + 684) + 18, 4 * 18 + 3 * (224 + 20))
    pixels = np.asarray(sheet)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        corner = (18 + 262 * row, 18 + 702 * column)
        assert (pixels[corner] == 128).all()
        assert (pixels[corner[0] - 1, corner[1]] != 128).all()
    assert build_preview(samples, columns=1).size[0] == 684 + 36


def test_the_first_samples_with_a_mask_are_read(tmp_path: Path) -> None:
    """In the order of the shards, without those that have no mask; no shard more than needed."""
    shards = []
    for number in range(2):
        samples = [
            Sample(
                f"{number}-{i}", encode_jpeg(np.full((300, 448, 3), 40 * i, np.uint8), 90), ("a",)
            )
            for i in range(4)
        ]
        pairs, masks = tmp_path / f"pairs{number}.tar", tmp_path / f"masks{number}.tar"
        write_tar(pairs, [member for sample in samples for member in pack_sample(sample, "jpg")])
        label_map = np.full((28, 28), number, np.uint8)
        write_tar(
            masks,
            [(f"{s.key}.mask.png", encode_label_map(label_map)) for s in samples if s.key != "0-1"],
        )
        shards.append((pairs, masks))
    found = preview_samples(shards, 5)
    assert [sample.key for sample in found] == ["0-0", "0-2", "0-3", "1-0", "1-1"]
    assert found[1].image.shape == (150, 224, 3)
    assert np.abs(found[1].image.astype(int) - 80).max() <= 2
    assert (found[4].label_map == np.full((28, 28), 1)).all()
    missing = (tmp_path / "none.tar", tmp_path / "none.tar")
    assert len(preview_samples([*shards, missing], 7)) == 7
    assert len(preview_samples(shards, 100)) == 7
    with pytest.raises(DataError, match=r"none\.tar"):
        preview_samples([missing], 1)


def test_the_page_holds_the_facts(facts: MaskFacts) -> None:
    """Every number, the reasons of what was left out, the captions and the keys can be read."""
    page = _Page(render_report([_sample("dog-1"), _sample("dog-2")], facts))
    for expected in (
        "Pseudo-masks of flickr", "features texture", "clustering merge", "8 segments at most",
        "12,345", "7.5 of 8", "61.2", "312 bytes", "shards 25", "images left out 37",
        "no caption 30 truncated 7", "The first 2 images", "The caption of dog-2.", "sseg 0.1.0",
    ):  # fmt: skip
        assert expected in page.text
    assert [image["alt"] for image in page.images[3:]] == [
        "image of dog-2", "mask of dog-2", "mask over image of dog-2",
    ]  # fmt: skip


def test_the_page_shows_the_pictures_of_the_sheet(facts: MaskFacts) -> None:
    """Image and overlay at their size; the mask one dot per token, in its exact colours."""
    sample = _sample()
    page = _Page(render_report([sample], facts))
    photo, mask, overlay = (page.picture(index) for index in range(3))
    assert np.abs(photo.astype(int) - 128).max() <= 3  # lossy
    np.testing.assert_array_equal(mask, label_colors()[sample.label_map])
    assert overlay.shape == sample.image.shape
    assert "aspect-ratio: 100 / 60" in page.images[1]["style"]


def test_the_page_needs_nothing_from_outside(facts: MaskFacts) -> None:
    """No scripts, no links, no addresses: every source is a data URI."""
    html = render_report([_sample()], facts)
    page = _Page(html)
    assert not {"script", "link", "iframe", "a"} & set(page.tags)
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "prefers-color-scheme: dark" in html
    assert "{#" not in html


def test_strange_keys_and_captions_stay_text(facts: MaskFacts) -> None:
    """Markup in names, keys, captions and reasons is shown, not obeyed."""
    sample = dataclasses.replace(_sample(EVIL), caption=EVIL)
    strange = dataclasses.replace(facts, name=EVIL, features=EVIL, skipped={EVIL: 1})
    html = render_report([sample], strange)
    page = _Page(html)
    assert "<script" not in html
    assert page.text.count(EVIL) == 6  # title, heading, features, caption, key, reason
    assert all(image["alt"].endswith(EVIL) for image in page.images)


def test_a_long_or_strange_key_stays_on_the_sheet() -> None:
    """Names that no font can show, or that are longer than the strip, change no size."""
    expected = build_preview([_sample()]).size
    for key in ("k" * 500, "\x1b[31m\n\u0000", "\u72ac\U0001f415"):
        assert build_preview([_sample(key)]).size == expected


def test_a_page_of_kept_shards_has_no_rate(facts: MaskFacts) -> None:
    """Where every shard was there already, a dash and a reason stand for the rate; nothing was
    left out, so there is no table of reasons; without samples there is no gallery."""
    kept = dataclasses.replace(facts, images_per_second=0.0, skipped={}, shards=1)
    page = _Page(render_report([], kept))
    assert "images per second: all shards were there already -" in page.text
    assert "shard 1" in page.text
    assert "shards" not in page.text.replace("all shards", "")
    assert "Left out" not in page.text
    assert not page.images
