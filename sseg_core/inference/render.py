"""Pictures of a segmentation: an overlay to look at, and a palette PNG to work with."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

# Okabe and Ito's seven colours, and thirteen more that keep the largest distance to all others
# in OKLab, for normal, protanope and deuteranope eyes alike.
_PALETTE: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (136, 0, 85), (68, 255, 238), (68, 17, 187),
    (136, 102, 255), (102, 85, 0), (119, 204, 136), (136, 85, 119), (204, 0, 68),
    (187, 204, 255), (68, 68, 119), (255, 68, 119), (0, 255, 153), (187, 51, 170),
)  # fmt: skip

_RINGS = (0.0, 0.45, -0.45)
"""Once the palette is used up: its tints (mixed with white), then its shades (with black)."""

_MIN_SIDE = 640
"""Smaller images are enlarged by a whole factor to about this long side, to fit readable text."""

_GRID = 128  # cells along the long side, where the place of a name is looked for
_PAPER: Color = (252, 252, 250)
_TEXT: Color = (28, 30, 36)
_FAINT: Color = (108, 110, 118)
_LOOKALIKES = str.maketrans(
    {"ß": "ss", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "đ": "d"}
)


def class_colors(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a colour per class name that is the same in every run.

    The name's hash chooses; where an earlier one of `names` has that colour, the hash chooses
    among the free ones. Up to 60 names, no two share a colour; beyond, colours repeat.

    Returns:
        [C, 3] uint8 RGB, none of them black.
    """
    size = len(_PALETTE)
    colors = np.zeros((len(names), 3), np.uint8)
    free: list[int] = []
    for position, name in enumerate(names):
        if not free:
            free = list(range(size))
        code = _hash(name)
        slot = code % size
        if slot not in free:
            slot = free[code // size % len(free)]
        free.remove(slot)
        colors[position] = _shaded(_PALETTE[slot], _RINGS[position // size % len(_RINGS)])
    return colors


def palette_png(label_map: NDArray[np.integer], names: Sequence[str]) -> Image.Image:
    """Return the label map as an image whose values are the labels plus 1.

    Args:
        label_map: [H, W] index into `names`, -1 for background.
        names: class names, which give the colours.

    Returns:
        Mode P, 0 being background (black) and i + 1 class i; more than 255 classes do not fit a
        palette and give the same values in mode I;16.
    """
    values = label_map.astype(np.int32) + 1
    if len(names) > 255:
        return Image.fromarray(values.astype(np.uint16))
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([0, 0, 0, *class_colors(names).ravel().tolist()])
    return image


def overlay(
    image: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    opacity: float = 0.55,
) -> Image.Image:
    """Draw the classes over the image, with names on the regions and a legend below.

    An image with a long side under 640 pixels is enlarged by a whole factor to at least that;
    lines and text grow with larger images. Characters that the bundled font lacks are replaced
    by plain letters, `?`, or, where nothing is left, the number of the class (`#1` the first).

    Args:
        image: [H, W, 3] uint8 RGB.
        label_map: [H, W] index into `names`, -1 for background, which keeps the photo's colours.
        names: class names.
        opacity: of the class colours, in [0, 1].
    """
    assert image.shape[:2] == label_map.shape, "image and label map differ in size"
    height, width = label_map.shape
    shares = np.bincount(label_map.ravel() + 1, minlength=len(names) + 1) / label_map.size
    found = [int(value) - 1 for value in np.argsort(-shares, kind="stable") if shares[value] > 0]
    photo = Image.fromarray(image)
    factor = max(1, math.ceil(_MIN_SIDE / max(height, width)))
    if factor > 1:
        photo = photo.resize((width * factor, height * factor), Image.Resampling.LANCZOS)
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)
    palette = class_colors(names)
    colors: dict[int, Color] = {-1: _FAINT}
    colors |= {
        label: (red, green, blue) for label, (red, green, blue) in enumerate(palette.tolist())
    }
    texts = {label: drawable_name(names[label], label) for label in found if label >= 0}
    unit = max(photo.size) / _MIN_SIDE
    font = _font(15 * unit)
    picture = _tinted(photo, label_map, palette, opacity, line=max(1, round(unit)))
    _write_names(picture, label_map, texts, colors, font)
    legend = [
        (texts.get(label, "background"), f"{100 * shares[label + 1]:.1f}%", colors[label])
        for label in found
    ]
    return _with_legend(picture, legend, font)


def _tinted(
    photo: Image.Image,
    label_map: NDArray[np.integer],
    colors: NDArray[np.uint8],
    opacity: float,
    line: int,
) -> Image.Image:
    """Blend the class colours in and draw white lines, `line` pixels wide, between regions."""
    tint = np.array(photo)
    known = label_map >= 0
    tint[known] = colors[label_map[known]]
    blended = np.array(Image.blend(photo, Image.fromarray(tint), opacity))
    border = np.zeros(label_map.shape, dtype=bool)
    border[line:] |= label_map[line:] != label_map[:-line]
    border[:, line:] |= label_map[:, line:] != label_map[:, :-line]
    blended[border] = 255
    return Image.fromarray(blended)


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


def _shaded(color: Color, amount: float) -> Color:
    target = 255 if amount > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(amount)) for c in color)
    return red, green, blue


def _hash(name: str) -> int:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return int.from_bytes(hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()[:8])


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
