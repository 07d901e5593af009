"""Pictures of held-out images on one sheet: photo, prediction and truth side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sseg_core.evaluation.examples import VOID
from sseg_core.inference.combine import BACKGROUND
from sseg_core.inference.render import class_colors

_HEADINGS = ("photo", "prediction", "truth")
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

_LabelMap = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels, small enough to keep many of them.

    Attributes:
        key: of the example.
        photo: as wide and as high as its panel.
        prediction: the same with the predicted classes.
        truth: the same with the true classes.
        right: share of the labelled pixels whose class is right, in [0, 1]; NaN without any.
        labels: all that occur in prediction or truth.
    """

    key: str
    photo: Image.Image
    prediction: Image.Image
    truth: Image.Image
    right: float
    labels: frozenset[int]


def draw_sample(
    key: str,
    image: npt.NDArray[np.uint8],
    prediction: _LabelMap,
    truth: _LabelMap,
    names: Sequence[str],
) -> Sample:
    """Draw the three pictures of an image.

    Args:
        key: of the example.
        image: [H, W, 3] uint8 RGB.
        prediction: [H, W] index into `names`, -1 for background, which keeps the photo's colours.
        truth: likewise; `VOID` where nobody knows, which is drawn white.
        names: class names, which give the colours.
    """
    counted = truth != VOID
    right = (prediction == truth)[counted]
    photo = Image.fromarray(image)
    scale = _PANEL / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    photo = photo.resize(size, Image.Resampling.LANCZOS)
    return Sample(
        key=key,
        photo=photo,
        prediction=_painted(photo, _resized(prediction, size), names),
        truth=_painted(photo, _resized(truth, size), names),
        right=float(right.mean()) if right.size else math.nan,
        labels=frozenset(np.unique(prediction).tolist()) | frozenset(np.unique(truth).tolist()),
    )


def contact_sheet(samples: Sequence[Sample], names: Sequence[str]) -> Image.Image:
    """Put the samples on one sheet with one legend, several side by side where they are many.

    Args:
        samples: at least one.
        names: class names, ASCII, as they were drawn with.

    Returns:
        RGB.
    """
    columns = max(1, round(math.sqrt(len(samples)) / 2))  # a sample is three pictures wide
    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    width = max(sample.photo.width for sample in samples)
    heights = [max(sample.photo.height for sample in row) for row in rows]
    block = 3 * width + 2 * _GAP
    line = 2 * _SMALL
    head = _MARGIN + 2 * _TITLE
    body = head + sum(heights) + len(rows) * line
    sheet_width = columns * (block + _MARGIN) + _MARGIN
    legend = _legend_places(samples, names, sheet_width - 2 * _MARGIN)
    sheet = Image.new("RGB", (sheet_width, body + legend[-1].y + line + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    small = _font(_SMALL)
    lefts = [_MARGIN + column * (block + _MARGIN) for column in range(columns)]
    for left in lefts:
        for panel, heading in enumerate(_HEADINGS):
            draw.text((left + panel * (width + _GAP), _MARGIN), heading, _TEXT, _font(_TITLE))
    top = head
    for row, height in zip(rows, heights, strict=True):
        for left, sample in zip(lefts, row, strict=False):
            panels = (sample.photo, sample.prediction, sample.truth)
            for panel, picture in enumerate(panels):
                sheet.paste(picture, (left + panel * (width + _GAP), top))
            below = top + sample.photo.height + 0.9 * _SMALL
            draw.text((left, below), _shortened(sample.key, width), _FAINT, small, anchor="lm")
            if not math.isnan(sample.right):
                right = f"{100 * sample.right:.1f} % right"
                draw.text((left + width + _GAP, below), right, _FAINT, small, anchor="lm")
        top += height + line
    for entry in legend:
        entry.draw(draw, _MARGIN, body)
    return sheet


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
            text, color = names[label], (red, green, blue)
        needed = math.ceil(_font(_SMALL).getlength(text) + 3 * _SMALL)
        if x and x + needed > width:
            x, y = 0, y + 2 * _SMALL
        entries.append(_Entry(text, color, x, y))
        x += needed
    return entries


def _resized(labels: _LabelMap, size: tuple[int, int]) -> _LabelMap:
    """Return the labels at the pixel centres of a picture of `size`, width first."""
    height, width = labels.shape
    rows = (2 * np.arange(size[1]) + 1) * height // (2 * size[1])
    columns = (2 * np.arange(size[0]) + 1) * width // (2 * size[0])
    resized: _LabelMap = labels[rows[:, None], columns]
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
