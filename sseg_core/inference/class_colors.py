"""A colour for every class name, the same in every run."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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


def _shaded(color: Color, amount: float) -> Color:
    target = 255 if amount > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(amount)) for c in color)
    return red, green, blue


def _hash(name: str) -> int:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return int.from_bytes(hashlib.sha256(folded.encode("utf-8", "surrogatepass")).digest()[:8])
