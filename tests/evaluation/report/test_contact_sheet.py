"""Held-out images on one sheet: what is drawn where, and what the legend says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sseg_core.evaluation.examples import VOID
from sseg_core.evaluation.report.contact_sheet import (
    Sample,
    contact_sheet,
    draw_labels,
    draw_sample,
)
from sseg_core.inference.render import class_colors

NAMES = ("tree", "house", "snow")
PAPER = (252, 252, 250)
GREY = np.full((24, 24, 3), 90, np.uint8)


def _maps(truth: int, prediction: int, size: tuple[int, int] = (24, 24)) -> list[np.ndarray]:
    return [np.full(size, prediction, np.int16), np.full(size, truth, np.int16)]


def _sample(truth: int = 0, prediction: int = 1, key: str = "000000") -> Sample:
    return draw_sample(key, GREY, *_maps(truth, prediction), NAMES)


def _colors(picture: Image.Image) -> set[object]:
    counted = picture.getcolors(1 << 24)
    assert counted is not None
    return {color for _, color in counted}


def test_the_hue_is_the_class_and_the_brightness_the_photo() -> None:
    """The colours of the photo do not change those of the classes."""
    blue, orange = np.zeros((24, 24, 3), np.uint8), np.zeros((24, 24, 3), np.uint8)
    blue[:] = (40, 80, 250)  # both as bright as each other
    orange[:] = (190, 59, 26)
    drawn = [
        draw_sample("", photo, *_maps(2, 2), NAMES).pictures["truth"] for photo in (blue, orange)
    ]
    tints = [np.array(picture)[12, 12].astype(int) for picture in drawn]
    assert np.abs(tints[0] - tints[1]).max() <= 4
    color = class_colors(NAMES)[2]
    assert np.array_equal(np.argsort(tints[0]), np.argsort(color))


def test_background_is_the_photo_and_the_unknown_is_white() -> None:
    """-1 keeps the photo's colours, void is drawn white, and neither counts as a class."""
    photo = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    sample = draw_sample("", photo, *_maps(VOID, -1), NAMES)
    assert np.array_equal(
        np.array(sample.pictures["prediction"]), np.array(sample.pictures["photo"])
    )
    assert _colors(sample.pictures["truth"]) == {(255, 255, 255)}
    assert sample.remark == ""
    assert contact_sheet([sample], NAMES).size[0] > 3 * 240


def test_right_is_the_share_of_the_labelled_pixels() -> None:
    """Half of what is labelled is right; what nobody knows does not count."""
    prediction, truth = _maps(0, 0)
    prediction[:6] = 2
    truth[12:] = VOID
    assert draw_sample("", GREY, prediction, truth, NAMES).remark == "50.0 % right"


def test_labels_keep_their_place_when_a_picture_is_scaled() -> None:
    """A border in the middle of a large photo is in the middle of its small picture."""
    prediction, truth = _maps(0, 1, (500, 800))
    truth[:, 400:] = 2
    sample = draw_sample("", np.zeros((500, 800, 3), np.uint8), prediction, truth, NAMES)
    assert sample.pictures["truth"].size == (240, 150)
    picture = np.array(sample.pictures["truth"])
    assert (picture[:, 120] == 255).all()
    assert len(np.unique(picture[:, :120].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(picture[:, 121:].reshape(-1, 3), axis=0)) == 1


def test_the_legend_holds_what_occurs_and_no_more() -> None:
    """Swatches in the full colours of predicted and true classes; none of an absent class."""
    sheet = contact_sheet([_sample(truth=0, prediction=0), _sample(truth=2, prediction=0)], NAMES)
    tree, house, snow = (tuple(color) for color in class_colors(NAMES).tolist())
    assert {tree, snow} <= _colors(sheet)
    assert house not in _colors(sheet)


def test_a_long_legend_is_wrapped() -> None:
    """Sixty classes fit the width of one sample, in several lines."""
    names = tuple(f"class number {index}" for index in range(60))
    truth = np.arange(24 * 24, dtype=np.int16).reshape(24, 24) % 60
    sheet = contact_sheet([draw_sample("", GREY, truth, truth, names)], names)
    short = contact_sheet([draw_sample("", GREY, *_maps(0, 0), names)], names)
    assert sheet.width == short.width
    assert sheet.height > short.height + 5 * 13
    assert _colors(sheet.crop((0, 0, 17, sheet.height))) == {PAPER}
    assert _colors(sheet.crop((sheet.width - 17, 0, sheet.width, sheet.height))) == {PAPER}
    assert {tuple(color) for color in class_colors(names).tolist()} <= _colors(sheet)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (8, 1), (9, 2), (64, 4)])
def test_many_samples_stand_side_by_side(count: int, columns: int) -> None:
    """The sheet grows in both directions; no sample is lost at its end."""
    samples = [_sample(truth=2) for _ in range(count - 1)] + [_sample(truth=0, prediction=0)]
    sheet = contact_sheet(samples, NAMES)
    one = contact_sheet(samples[:1], NAMES)
    assert sheet.width - one.width == (columns - 1) * (3 * 240 + 2 * 6 + 18)
    last = tuple(np.array(samples[-1].pictures["truth"])[120, 120].tolist())
    assert last in _colors(sheet)


def test_portraits_panoramas_and_long_keys_stay_in_their_places() -> None:
    """Whatever the shapes and names, panels begin at the same columns."""
    tall = draw_sample("k" * 300, np.zeros((900, 3, 3), np.uint8), *_maps(0, 0, (900, 3)), NAMES)
    wide = draw_sample("k" * 300, np.zeros((3, 900, 3), np.uint8), *_maps(0, 0, (3, 900)), NAMES)
    assert (tall.pictures["photo"].size, wide.pictures["photo"].size) == ((1, 240), (240, 1))
    sheet = np.array(contact_sheet([tall, wide], NAMES))
    assert (sheet[48:288, 18] == 0).all()  # the portrait's photo
    beside = sheet[290:310, 18 + 240 : 18 + 246].reshape(-1, 3)
    assert np.array_equal(np.unique(beside, axis=0), [PAPER])  # its key ends before the next panel


def test_confidence_is_drawn_from_dark_to_light() -> None:
    """Brighter step by step, so that it can be read without colours; its mean is below."""
    ramp = np.linspace(0, 1, 24, dtype=np.float32)[None].repeat(24, axis=0)
    labels = np.zeros((24, 24), np.int16)
    sample = draw_labels("a", GREY, labels, ramp, NAMES)
    assert list(sample.pictures) == ["photo", "labels", "confidence"]
    grey = np.array(sample.pictures["confidence"].convert("L"))[100, 5::10].astype(int)
    assert (np.diff(grey) > 0).all()
    assert sample.remark == "mean confidence 0.50"
    labels[:, 12:] = VOID
    assert draw_labels("a", GREY, labels, ramp, NAMES).remark == "mean confidence 0.24"
    assert draw_labels("a", GREY, labels, None, NAMES).remark == ""
    labels[:] = VOID
    assert draw_labels("a", GREY, labels, ramp, NAMES).remark == ""


def test_a_sheet_explains_confidence_where_it_is_drawn() -> None:
    """The scale stands below the legend; a sample without confidence has its place nevertheless."""
    labels, ramp = np.zeros((24, 24), np.int16), np.full((24, 24), 0.5, np.float32)
    with_it = draw_labels("a", GREY, labels, ramp, NAMES)
    without = draw_labels("a", GREY, labels, None, NAMES)
    mixed, plain = contact_sheet([without, with_it], NAMES), contact_sheet([without] * 2, NAMES)
    assert mixed.width - plain.width == 240 + 6
    assert mixed.height > plain.height
    assert {(0, 34, 78), (254, 232, 56)} <= _colors(mixed)


def test_names_of_strangers_are_drawn_as_they_can_be() -> None:
    """Line breaks, escapes and other scripts neither garble the sheet nor move anything."""
    names = ("tr\x1b[31m\nee", "maison à côté", "\u5bb6" * 500)
    labels = np.arange(24 * 24, dtype=np.int16).reshape(24, 24) % 3
    sheet = contact_sheet([draw_labels("k\n\x1b[0m\u5bb6" * 90, GREY, labels, None, names)], names)
    plain = contact_sheet([draw_labels("k", GREY, labels, None, ("a", "b", "c"))], ("a", "b", "c"))
    assert sheet.size == plain.size
