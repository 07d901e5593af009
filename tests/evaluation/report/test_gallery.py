"""What a page holds of an image."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from sseg_core.evaluation.examples import BACKGROUND, VOID
from sseg_core.evaluation.report.gallery import Card, gallery_card


def _maps(card: Card) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(card.maps))
    values = np.frombuffer(raw, "<u2").astype(int) + VOID
    return values.reshape(len(card.titles), card.height, card.width)


def _photo(card: Card) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(card.photo.partition("base64,")[2])))


def test_label_maps_come_back_exactly() -> None:
    """Any label, void and background included, of more than a thousand classes."""
    names = [f"class {index}" for index in range(1203)]
    truth = np.random.default_rng(0).integers(VOID, 1203, (330, 400)).astype(np.int16)
    prediction = np.roll(truth, 1)
    image = np.zeros((330, 400, 3), np.uint8)
    card = gallery_card("key", image, {"truth": truth, "p": prediction}, names, "")
    np.testing.assert_array_equal(_maps(card), [truth, prediction])
    assert card.voids


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((960, 1280), (640, 480)),
        ((64, 50), (250, 320)),
        ((300, 400), (400, 300)),
        ((1, 3000), (640, 1)),
    ],
)
def test_pictures_have_a_size_for_the_page(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Large ones shrink to 640 pixels, tiny ones grow by a whole factor, label maps with them."""
    labels = np.zeros(shape, np.int16)
    labels[:, shape[1] // 2 :] = 1
    image = np.where(labels[..., None] == 1, np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    card = gallery_card("key", image, {"truth": labels, "p": labels}, ["a", "b"], "")
    photo = _photo(card)
    assert photo.size == (card.width, card.height) == size
    bright = np.asarray(photo.convert("L")) > 127
    assert (bright == (_maps(card)[0] == 1)).mean() > 0.98


def test_the_legend_tells_the_iou_of_each_map() -> None:
    """Pixels that do not count have no part in it; what is predicted only there has no IoU."""
    truth = np.array([[0, 0, 0, 0, 1, 1, VOID, VOID]], np.int16)
    first = np.array([[0, 0, 0, 1, 1, 1, 2, 2]], np.int16)
    second = np.array([[0, 0, 0, 0, BACKGROUND, BACKGROUND, BACKGROUND, 0]], np.int16)
    image = np.zeros((1, 8, 3), np.uint8)
    maps = {"truth": truth, "A": first, "B": second}
    card = gallery_card("key", image, maps, ["cat", "dog", "cow", "pig"], "")
    assert [(chip.label, chip.name, chip.iou) for chip in card.chips] == [
        (0, "cat", ("75", "100")),
        (1, "dog", ("67", "0")),
        (BACKGROUND, "background", ("-", "0")),
        (2, "cow", ("-", "-")),
    ]
