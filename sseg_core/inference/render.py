"""Pictures of a segmentation: an overlay to look at, and a palette PNG to work with."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sseg_core.inference.class_colors import Color, class_colors

__all__ = ["class_colors", "drawable", "drawable_name", "overlay", "palette_png"]

_MIN_SIDE = 500
"""Smaller images are enlarged by a whole factor to about this long side, to fit readable text."""

_MAX_SIDE = 4096
"""Larger images are drawn at a whole fraction of their size with at most this long side."""

_LONG = 4
"""Text in a picture that is longer than so many short sides does not grow with its long side: it
would fill the short one."""

_BAND = 1 << 20
"""Pixels that are worked on at once, so that what is needed besides the picture stays small."""

_GRID = 128  # cells along the long side, where the place of a name is looked for
_PAPER: Color = (252, 252, 250)
_TEXT: Color = (28, 30, 36)
_FAINT: Color = (108, 110, 118)
_LOOKALIKES = str.maketrans(
    {"ß": "ss", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "đ": "d"}
)


def palette_png(label_map: NDArray[np.integer], names: Sequence[str]) -> Image.Image:
    """Return the label map as an image whose values are the labels plus 1.

    Args:
        label_map: [H, W] index into `names`, -1 for background.
        names: class names, which give the colours.

    Returns:
        Mode P, 0 being background (black) and i + 1 class i; more than 255 classes do not fit a
        palette and give the same values in mode I;16.
    """
    is_wide = len(names) > 255
    values = np.empty(label_map.shape, np.uint16 if is_wide else np.uint8)
    np.add(label_map, 1, out=values, casting="unsafe")
    image = Image.fromarray(values)
    if is_wide:
        return image
    image.putpalette([0, 0, 0, *class_colors(names).ravel().tolist()])
    return image


def overlay(
    image: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    opacity: float = 0.55,
) -> Image.Image:
    """Draw the classes over the image, with names on the regions and a legend below.

    An image with a long side under 500 pixels is enlarged by a whole factor to at least that, and
    one with a long side over 4096 made smaller by a whole factor to at most that: what is thin may
    then be in the legend only. Lines and text grow with larger images. Characters that the bundled
    font lacks are replaced by plain letters, `?`, or, where nothing is left, the number of the
    class (`#1` the first).

    Args:
        image: [H, W, 3] uint8 RGB.
        label_map: [H, W] index into `names`, -1 for background, which keeps the photo's colours.
        names: class names.
        opacity: of the class colours, in [0, 1].
    """
    assert image.shape[:2] == label_map.shape, "image and label map differ in size"
    shares = _pixels_of_labels(label_map, len(names)) / label_map.size
    found = [int(value) - 1 for value in np.argsort(-shares, kind="stable") if shares[value] > 0]
    photo, shown_labels = _at_drawn_size(image, label_map)
    palette = class_colors(names)
    colors: dict[int, Color] = {-1: _FAINT}
    colors |= {
        label: (red, green, blue) for label, (red, green, blue) in enumerate(palette.tolist())
    }
    texts = {label: drawable_name(names[label], label) for label in found if label >= 0}
    unit = max(1, min(max(shown_labels.shape), _LONG * min(shown_labels.shape)) / _MIN_SIDE)
    font = _font(15 * unit)
    picture = _tinted(photo, shown_labels, palette, opacity, line=max(1, round(unit)))
    _write_names(picture, shown_labels, texts, colors, font)
    legend = [
        (texts.get(label, "background"), f"{100 * shares[label + 1]:.1f}%", colors[label])
        for label in found
    ]
    return _with_legend(picture, legend, font)


def _pixels_of_labels(label_map: NDArray[np.integer], num_classes: int) -> NDArray[np.intp]:
    """Return [1 + C] the number of pixels of background and of each class."""
    pixels = np.zeros(num_classes + 1, np.intp)
    for rows in _bands(label_map.shape):  # bincount makes labels eight bytes long
        pixels += np.bincount(label_map[rows].ravel() + 1, minlength=len(pixels))
    return pixels


def _at_drawn_size(
    image: NDArray[np.uint8], label_map: NDArray[np.integer]
) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Return image and label map enlarged or made smaller to the size of the picture."""
    height, width = label_map.shape
    long_side = max(height, width)
    factor = math.ceil(_MIN_SIDE / long_side)
    if factor > 1:
        size = (width * factor, height * factor)
        photo = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        return np.asarray(photo), label_map.repeat(factor, axis=0).repeat(factor, axis=1)
    factor = math.ceil(long_side / _MAX_SIDE)
    if factor == 1:
        return image, label_map
    middles = [
        np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in (height, width)
    ]
    parts = [
        np.asarray(Image.fromarray(image[rows]).reduce(factor))
        for rows in _bands((height, width), multiple=factor)
    ]
    return np.concatenate(parts), label_map[np.ix_(*middles)]


def _bands(size: tuple[int, ...], multiple: int = 1) -> Iterator[slice]:
    """Cut the rows of an image of a size into bands of some of them, of a multiple in number."""
    rows = max(1, _BAND // size[1] // multiple) * multiple
    return (slice(top, min(top + rows, size[0])) for top in range(0, size[0], rows))


def _tinted(
    photo: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    colors: NDArray[np.uint8],
    opacity: float,
    line: int,
) -> Image.Image:
    """Blend the class colours in and draw white lines, `line` pixels wide, between regions."""
    height, width = label_map.shape
    picture = Image.new("RGB", (width, height))
    # Four bytes a colour are looked up in one go; the first is background's, which is not used.
    table = np.zeros((len(colors) + 1, 4), np.uint8)
    table[1:, :3] = colors
    packed = table.view(np.uint32)[:, 0]
    for rows in _bands((height, width)):
        labels, size = label_map[rows], (width, rows.stop - rows.start)
        shown = Image.fromarray(photo[rows])
        looked_up = packed[labels + 1]
        tint = Image.frombuffer("RGBX", size, looked_up, "raw", "RGBX", 0, 1).convert("RGB")
        nothing = labels < 0
        if nothing.any():
            tint.paste(shown, mask=_stencil(nothing))
        band = Image.blend(shown, tint, opacity)
        border = np.zeros(labels.shape, dtype=bool)
        border[:, line:] = labels[:, line:] != labels[:, :-line]
        first = min(max(rows.start, line), rows.stop)  # the first lines have none above them
        border[first - rows.start :] |= (
            label_map[first : rows.stop] != label_map[first - line : rows.stop - line]
        )
        band.paste((255, 255, 255), mask=_stencil(border))
        picture.paste(band, (0, rows.start))
    return picture


def _stencil(mask: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.view(np.uint8) * np.uint8(255))


def _write_names(
    picture: Image.Image,
    label_map: NDArray[np.integer],
    texts: Mapping[int, str],
    colors: Mapping[int, Color],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Write each class's name where its region is widest, if there is room for the text."""
    step = math.ceil(max(label_map.shape) / _GRID)
    coarse = label_map[step // 2 :: step, step // 2 :: step]
    depth = _depth(coarse)
    draw = ImageDraw.Draw(picture)
    pad = 0.4 * font.size
    taken: list[tuple[float, float, float, float]] = []
    for label, text in texts.items():
        inside = depth * (coarse == label)
        if 2 * inside.max(initial=0) * step < 1.5 * font.size:
            continue
        rows, columns = np.nonzero(inside == inside.max())
        middle = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
        half_x, half_y = 0.5 * font.getlength(text) + pad, 0.85 * font.size
        if 2 * half_x > picture.width or 2 * half_y > picture.height:
            continue
        x = min(max((columns[middle] + 0.5) * step, half_x), picture.width - half_x)
        y = min(max((rows[middle] + 0.5) * step, half_y), picture.height - half_y)
        plate = (x - half_x, y - half_y, x + half_x, y + half_y)
        if any(_touch(plate, other) for other in taken):
            continue
        taken.append(plate)
        draw.rounded_rectangle(
            plate, 0.4 * font.size, colors[label], (255, 255, 255), max(1, round(font.size / 12))
        )
        draw.text((x, y), text, _ink(colors[label]), font, anchor="mm")


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, str, Color]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Put a strip of swatches, names and area shares below the picture, wrapped to its width."""
    em = font.size
    widths = [font.getlength(f"{text} {share}") + 3.4 * em for text, share, _ in entries]
    width = max(picture.width, math.ceil(max(widths) + em))
    places: list[tuple[float, float]] = []
    x, y = em, 0.0
    for item in widths:
        if x > em and x + item > width:
            x, y = em, y + 1.9 * em
        places.append((x, y))
        x += item
    sheet = Image.new("RGB", (width, picture.height + math.ceil(y + 3.1 * em)), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for (x, y), (text, share, color) in zip(places, entries, strict=True):
        middle = picture.height + y + 1.55 * em
        box = (x, middle - 0.5 * em, x + em, middle + 0.5 * em)
        draw.rounded_rectangle(box, 0.25 * em, color)
        draw.text((x + 1.5 * em, middle), text, _TEXT, font, anchor="lm")
        at = x + 1.5 * em + font.getlength(f"{text} ")
        draw.text((at, middle), share, _FAINT, font, anchor="lm")
    return sheet


def _depth(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """How many cells each cell lies from the edge of its region, in steps to four sides."""
    padded = np.pad(labels, 1, constant_values=-2)
    alive = np.ones(labels.shape, dtype=bool)
    for shifted in _neighbours(padded):
        alive &= shifted == labels
    depth = np.ones(labels.shape, dtype=np.int32)
    while alive.any():
        depth += alive
        sides = _neighbours(np.pad(alive, 1))
        alive = alive & sides[0] & sides[1] & sides[2] & sides[3]
    return depth


def _neighbours(padded: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def drawable(text: str) -> str:
    """Return a text in the characters of the bundled font, on one line."""
    plain = unicodedata.normalize("NFKD", text.translate(_LOOKALIKES))
    letters = (
        char if " " <= char <= "~" else " " if char.isspace() else "?"
        for char in plain
        if not unicodedata.combining(char)
    )
    return " ".join("".join(letters).split())


def drawable_name(name: str, label: int) -> str:
    """Return a class name likewise, at most 32 characters; its number where none can be drawn."""
    text = drawable(name)
    if not any(char.isalnum() for char in text):
        return f"#{label + 1}"
    return text if len(text) <= 32 else f"{text[:29].rstrip()}..."


def _ink(color: Color) -> Color:
    """Black or white, whichever is easier to read on `color`."""
    red, green, blue = color
    return _TEXT if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
