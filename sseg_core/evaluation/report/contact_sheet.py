"""Pictures of images on one sheet: photo, prediction and truth, or labels, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sseg_core.evaluation.examples import VOID
from sseg_core.inference.combine import BACKGROUND
from sseg_core.inference.render import class_colors, drawable, drawable_name

_PANEL = 240  # longest side of a picture, in pixels
_GAP = 6
_MARGIN = 18
_TITLE = 15  # sizes of text
_SMALL = 13
_OPACITY = 0.65  # of a class colour over the photo
_PAPER = (252, 252, 250)
_TEXT = (28, 30, 36)
_FAINT = (108, 110, 118)
_UNKNOWN = (255, 255, 255)
_CONFIDENCE = "confidence"
_BAR = 120  # width of the scale of confidence in the legend, in pixels

# Cividis at every quarter: alike to normal and colour-blind eyes, from dark to light (Nunez et al.,
# PLOS ONE 2018).
_SCALE = ((0, 34, 78), (67, 78, 108), (125, 124, 120), (188, 175, 111), (254, 232, 56))

_LabelMap = npt.NDArray[np.integer]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels, small enough to keep many of them.

    Attributes:
        key: of the image.
        pictures: by what they show, all of one size.
        remark: stands below the second picture; may be empty.
        labels: all that occur in the pictures.
    """

    key: str
    pictures: Mapping[str, Image.Image]
    remark: str
    labels: frozenset[int]


def draw_sample(
    key: str,
    image: npt.NDArray[np.uint8],
    prediction: _LabelMap,
    truth: _LabelMap,
    names: Sequence[str],
) -> Sample:
    """Draw photo, prediction and truth of an image.

    The remark is the percentage of the labelled pixels whose class is right, if there are any.

    Args:
        key: of the example.
        image: [H, W, 3] uint8 RGB.
        prediction: [H, W] index into `names`, -1 for background, which keeps the photo's colours.
        truth: likewise; `VOID` where nobody knows, which is drawn white.
        names: class names, which give the colours.
    """
    right = (prediction == truth)[truth != VOID]
    photo = _photo(image)
    return Sample(
        key=key,
        pictures={
            "photo": photo,
            "prediction": _painted(photo, _resized(prediction, photo.size), names),
            "truth": _painted(photo, _resized(truth, photo.size), names),
        },
        remark=f"{100 * right.mean():.1f} % right" if right.size else "",
        labels=frozenset(np.unique(prediction).tolist()) | frozenset(np.unique(truth).tolist()),
    )


def draw_labels(
    key: str,
    image: npt.NDArray[np.uint8],
    labels: _LabelMap,
    confidence: npt.NDArray[np.float32] | None,
    names: Sequence[str],
) -> Sample:
    """Draw photo, labels and confidence of an image that has no truth.

    The remark is the mean confidence of what is labelled.

    Args:
        key: of the image.
        image: [H, W, 3] uint8 RGB.
        labels: [H, W] as the prediction of `draw_sample`; `VOID` where a pixel does not count.
        confidence: [H, W] in [0, 1], low drawn dark; None draws no such picture.
        names: class names, which give the colours.
    """
    photo = _photo(image)
    pictures = {"photo": photo, "labels": _painted(photo, _resized(labels, photo.size), names)}
    if confidence is not None:
        pictures[_CONFIDENCE] = Image.fromarray(_scale_colors(_resized(confidence, photo.size)))
    sure = None if confidence is None else confidence[labels != VOID]
    return Sample(
        key=key,
        pictures=pictures,
        remark="" if sure is None or not sure.size else f"mean confidence {sure.mean():.2f}",
        labels=frozenset(np.unique(labels).tolist()),
    )


def contact_sheet(samples: Sequence[Sample], names: Sequence[str]) -> Image.Image:
    """Put the samples on one sheet with one legend, several side by side where they are many.

    Args:
        samples: at least one, each with the same kinds of pictures or the first of them.
        names: class names as they were drawn with.

    Returns:
        RGB.
    """
    headings = max((tuple(sample.pictures) for sample in samples), key=len)
    sizes = [sample.pictures[headings[0]].size for sample in samples]
    columns = max(1, round(math.sqrt(len(samples)) / 2))  # a sample is some pictures wide
    starts = range(0, len(samples), columns)
    width = max(size[0] for size in sizes)
    heights = [max(size[1] for size in sizes[start : start + columns]) for start in starts]
    block = len(headings) * (width + _GAP) - _GAP
    line = 2 * _SMALL
    head = _MARGIN + 2 * _TITLE
    body = head + sum(heights) + len(starts) * line
    sheet_width = columns * (block + _MARGIN) + _MARGIN
    legend = _legend_places(samples, names, sheet_width - 2 * _MARGIN)
    scale = 2 * line if _CONFIDENCE in headings else 0
    sheet = Image.new("RGB", (sheet_width, body + legend[-1].y + line + scale + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + column * (block + _MARGIN) for column in range(columns)]
    for left in lefts:
        for panel, heading in enumerate(headings):
            draw.text((left + panel * (width + _GAP), _MARGIN), heading, _TEXT, _font(_TITLE))
    top = head
    for start, height in zip(starts, heights, strict=True):
        for left, sample in zip(lefts, samples[start : start + columns], strict=False):
            _paste(sheet, draw, sample, (left, top), width)
        top += height + line
    for entry in legend:
        entry.draw(draw, _MARGIN, body)
    if scale:
        _draw_scale(sheet, draw, (_MARGIN, body + legend[-1].y + line + line // 2))
    return sheet


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    sample: Sample,
    place: tuple[int, int],
    width: int,
) -> None:
    """Put the pictures of a sample side by side, with its key and its remark below."""
    left, top = place
    for panel, picture in enumerate(sample.pictures.values()):
        sheet.paste(picture, (left + panel * (width + _GAP), top))
    below = top + picture.height + 0.9 * _SMALL
    small = _font(_SMALL)
    draw.text((left, below), _shortened(drawable(sample.key), width), _FAINT, small, anchor="lm")
    rest = (len(sample.pictures) - 1) * (width + _GAP) - _GAP
    remark = _shortened(sample.remark, rest)
    draw.text((left + width + _GAP, below), remark, _FAINT, small, anchor="lm")


def _draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int]) -> None:
    """Draw what the colours of the confidence mean."""
    left, top = place
    middle, font = top + _SMALL // 2, _font(_SMALL)
    text = f"{_CONFIDENCE}  0"
    draw.text((left, middle), text, _TEXT, font, anchor="lm")
    left += math.ceil(font.getlength(text)) + _GAP
    ramp = np.linspace(0, 1, _BAR, dtype=np.float32)[None].repeat(_SMALL, axis=0)
    sheet.paste(Image.fromarray(_scale_colors(ramp)), (left, top))
    draw.text((left + _BAR + _GAP, middle), "1", _TEXT, font, anchor="lm")


@dataclass(frozen=True)
class _Entry:
    """A swatch and its name in the legend, at a place from the legend's upper left corner."""

    text: str
    color: tuple[int, int, int] | None
    x: int
    y: int

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
        x, middle = left + self.x, top + self.y + _SMALL
        box = (x, middle - _SMALL // 2, x + _SMALL, middle + _SMALL // 2)
        outline = _FAINT if self.color in {None, _UNKNOWN} else None
        draw.rounded_rectangle(box, 3, self.color, outline)
        draw.text((x + 1.5 * _SMALL, middle), self.text, _TEXT, _font(_SMALL), anchor="lm")


def _legend_places(samples: Sequence[Sample], names: Sequence[str], width: int) -> list[_Entry]:
    """Lay out the labels that occur, in the order of the classes, wrapped to the width."""
    colors = class_colors(names)
    entries: list[_Entry] = []
    x = y = 0
    present = frozenset().union(*(sample.labels for sample in samples))
    for label in sorted(present, key=lambda label: (label < 0, label)):
        if label == VOID:
            text, color = "not labelled", _UNKNOWN
        elif label == BACKGROUND:
            text, color = "background, as in the photo", None
        else:
            red, green, blue = colors[label].tolist()
            text, color = drawable_name(names[label], label), (red, green, blue)
        needed = math.ceil(_font(_SMALL).getlength(text) + 3 * _SMALL)
        if x and x + needed > width:
            x, y = 0, y + 2 * _SMALL
        entries.append(_Entry(text, color, x, y))
        x += needed
    return entries


def _photo(image: npt.NDArray[np.uint8]) -> Image.Image:
    photo = Image.fromarray(image)
    scale = _PANEL / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS)


def _scale_colors(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return [H, W, 3] the colours of [H, W] values in [0, 1]."""
    stops = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(confidence, stops, channel) for channel in zip(*_SCALE, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _resized(values: npt.NDArray[_Number], size: tuple[int, int]) -> npt.NDArray[_Number]:
    """Return the values at the pixel centres of a picture of `size`, width first."""
    height, width = values.shape
    rows = (2 * np.arange(size[1]) + 1) * height // (2 * size[1])
    columns = (2 * np.arange(size[0]) + 1) * width // (2 * size[0])
    resized: npt.NDArray[_Number] = values[rows[:, None], columns]
    return resized


def _painted(photo: Image.Image, labels: _LabelMap, names: Sequence[str]) -> Image.Image:
    """Blend the class colours over the photo, with white lines between regions."""
    pixels = np.array(photo)
    has_class = (labels >= 0) & (labels < len(names))
    tint = class_colors(names)[labels[has_class]]
    grey = np.array(photo.convert("L"))[has_class, None]  # lest its colours change the classes'
    pixels[has_class] = (_OPACITY * tint + (1 - _OPACITY) * grey).round()
    white = labels == VOID
    white[1:] |= labels[1:] != labels[:-1]
    white[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    pixels[white] = _UNKNOWN
    return Image.fromarray(pixels)


def _shortened(text: str, width: int) -> str:
    """Cut the front of a text that is wider than `width`: the ends of keys differ."""
    font = _font(_SMALL)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
