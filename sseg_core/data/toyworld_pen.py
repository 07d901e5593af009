"""The pen that toy-world objects are drawn with: Pillow in unit coordinates, y pointing down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

WHITE: Color = (252, 250, 246)
INK: Color = (44, 40, 52)
WOOD: Color = (112, 76, 48)


def shade(color: Color, amount: float) -> Color:
    """Return `color` mixed with white (amount in (0, 1]) or with black (amount in [-1, 0))."""
    target = 255 if amount > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(amount)) for c in color)
    return red, green, blue


class Pen:
    """Draws in unit coordinates on a transparent square of `pixels` a side.

    Transparent pixels carry the base colour, so that averaging neighbours on the way down
    leaves no dark fringe.
    """

    def __init__(self, pixels: int, base: Color) -> None:
        self.base = base
        self.dark = shade(base, -0.3)
        self.light = shade(base, 0.3)
        self.image = Image.new("RGBA", (pixels, pixels), (*base, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._pixels = pixels

    def disc(
        self, x: float, y: float, radius: float, fill: Color, outline: Color | None = None
    ) -> None:
        """Draw a circle around (x, y)."""
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline)

    def ellipse(
        self, edges: tuple[float, float, float, float], fill: Color, outline: Color | None = None
    ) -> None:
        """Draw the ellipse that fills left, top, right, bottom."""
        left, top, right, bottom = edges
        box = self._scaled([(left, top), (right, bottom)])
        self._draw.ellipse(box, fill, outline, self._width(0.018))

    def polygon(self, points: Points, fill: Color, outline: Color | None = None) -> None:
        """Draw a filled polygon."""
        self._draw.polygon(self._scaled(points), fill, outline, self._width(0.018))

    def box(
        self,
        edges: tuple[float, float, float, float],
        fill: Color,
        outline: Color | None = None,
        radius: float = 0.0,
    ) -> None:
        """Draw a rectangle given by left, top, right, bottom."""
        left, top, right, bottom = edges
        self._draw.rounded_rectangle(
            self._scaled([(left, top), (right, bottom)]),
            radius * self._pixels,
            fill,
            outline,
            self._width(0.018),
        )

    def line(self, points: Points, fill: Color, width: float) -> None:
        """Draw a line through `points` with round joints."""
        self._draw.line(self._scaled(points), fill, self._width(width), joint="curve")

    def face(self, x: float, y: float, size: float) -> None:
        """Draw two eyes, a smile and rosy cheeks."""
        for side in (-1, 1):
            eye, brow = x + side * 0.36 * size, y - 0.23 * size
            self.ellipse((eye - 0.09 * size, brow, eye + 0.09 * size, brow + 0.26 * size), INK)
            self.disc(x + side * 0.62 * size, y + 0.2 * size, 0.12 * size, shade(self.base, 0.45))
        smile = [
            (x + 0.34 * size * math.cos(a), y + 0.1 * size + 0.3 * size * math.sin(a))
            for a in np.linspace(0.15 * math.pi, 0.85 * math.pi, 9)
        ]
        self.line(smile, INK, 0.09 * size)

    def _scaled(self, points: Points) -> list[tuple[float, float]]:
        return [(x * self._pixels, y * self._pixels) for x, y in points]

    def _width(self, share: float) -> int:
        return max(1, round(share * self._pixels))
