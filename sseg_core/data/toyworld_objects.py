"""The eight things of the toy world, drawn with Pillow in a unit square.

Each has a shape and a colour family of its own, so that it can be learned from few scenes. A
drawing fills the square [0, 1] x [0, 1], y pointing down; things that stand have their feet at
the lower edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sseg_core.data.toyworld_pen import INK, WHITE, WOOD, Color, Pen, shade


@dataclass(frozen=True, kw_only=True)
class Thing:
    """How one class of objects looks and where it is at home.

    Attributes:
        color: centre of its colour family.
        draw: draws one individual.
        home: backgrounds on which it is mostly found.
        stands: its feet touch the ground; otherwise it floats.
        size: range of its side, as a share of the scene's (our choice).
    """

    color: Color
    draw: Callable[[Pen, np.random.Generator], None]
    home: tuple[str, ...]
    stands: bool
    size: tuple[float, float]


def draw_object(name: str, rng: np.random.Generator, pixels: int) -> NDArray[np.float32]:
    """Draw one individual of the class `name`.

    Args:
        name: a key of `THINGS`.
        rng: decides colour, pose and details; the number of draws does not depend on `pixels`.
        pixels: side of the result.

    Returns:
        [pixels, pixels, 4] red, green, blue and opacity in [0, 255], lit from the upper left.
    """
    thing = THINGS[name]
    tint = rng.normal(0.0, 7.0, size=3) + rng.normal(0.0, 7.0)
    red, green, blue = (
        round(min(255, max(0, c + t))) for c, t in zip(thing.color, tint, strict=True)
    )
    tilt = float(rng.normal(0.0, 5.0))
    mirrored = rng.random() < 0.5
    oversampling = 4 if pixels <= 64 else 3 if pixels <= 160 else 2
    pen = Pen(pixels * oversampling, (red, green, blue))
    thing.draw(pen, rng)
    image = pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else pen.image
    image = image.rotate(tilt, Image.Resampling.BILINEAR, fillcolor=(red, green, blue, 0))
    patch = np.array(image.reduce(oversampling), dtype=np.float32)
    ramp = np.linspace(0.5, -0.5, pixels, dtype=np.float32)
    light = 1.0 + 0.2 * ramp[:, None] + 0.14 * ramp[None, :]
    patch[..., :3] *= light[..., None]
    return patch


def _house(pen: Pen, rng: np.random.Generator) -> None:
    roof = shade(pen.base, -0.38)
    pen.box((0.66, 0.1, 0.79, 0.4), pen.dark, roof)
    pen.box((0.63, 0.07, 0.82, 0.13), roof)
    pen.box((0.14, 0.44, 0.86, 0.98), pen.base, roof)
    for row in range(5):
        y = 0.54 + 0.1 * row
        pen.line([(0.16, y), (0.84, y)], shade(pen.base, -0.1), 0.012)
    pen.polygon([(0.03, 0.5), (0.5, 0.05), (0.97, 0.5)], roof, shade(roof, -0.25))
    pen.disc(0.5, 0.31, 0.07, (255, 222, 150), shade(roof, -0.3))
    pen.box((0.42, 0.68, 0.58, 0.98), shade(WOOD, -0.25), INK, 0.03)
    pen.disc(0.545, 0.84, 0.016, (250, 205, 110))
    lamp = (255, 224, 150) if rng.random() < 0.7 else (178, 214, 232)
    for x in (0.2, 0.65):
        pen.box((x, 0.6, x + 0.15, 0.77), lamp, roof)
        pen.line([(x + 0.075, 0.6), (x + 0.075, 0.77)], roof, 0.014)
        pen.line([(x, 0.685), (x + 0.15, 0.685)], roof, 0.014)


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    edge = shade(pen.base, -0.35)
    if rng.random() < 0.5:
        pen.polygon([(0.45, 0.98), (0.45, 0.8), (0.55, 0.8), (0.55, 0.98)], WOOD)
        for top, bottom, reach in ((0.46, 0.88, 0.37), (0.24, 0.62, 0.3), (0.02, 0.36, 0.22)):
            pen.polygon([(0.5, top), (0.5 - reach, bottom), (0.5 + reach, bottom)], pen.base, edge)
            pen.polygon(
                [(0.5, top + 0.06), (0.5 - 0.62 * reach, bottom - 0.05), (0.46, bottom - 0.05)],
                shade(pen.base, 0.12),
            )
        return
    pen.polygon([(0.43, 0.98), (0.46, 0.6), (0.54, 0.6), (0.57, 0.98)], WOOD)
    blobs = [(0.3, 0.48, 0.2), (0.7, 0.48, 0.2), (0.5, 0.55, 0.2), (0.36, 0.28, 0.2)]
    blobs += [(0.64, 0.28, 0.2), (0.5, 0.22, 0.19)]
    for x, y, radius in blobs:
        pen.disc(x, y, radius + 0.015, edge)
    for x, y, radius in blobs:
        pen.disc(x, y, radius, pen.base)
    for x, y, radius in ((0.33, 0.26, 0.1), (0.6, 0.2, 0.08), (0.27, 0.46, 0.08)):
        pen.disc(x, y, radius, shade(pen.base, 0.14))
    if rng.random() < 0.5:
        for x, y in ((0.28, 0.56), (0.5, 0.42), (0.72, 0.5), (0.62, 0.3), (0.42, 0.2)):
            pen.disc(x, y, 0.032, (226, 72, 60))


def _sun(pen: Pen, rng: np.random.Generator) -> None:
    rays = int(rng.integers(9, 14))
    for index in range(rays):
        angle = 2 * math.pi * index / rays
        reach = 0.49 if index % 2 else 0.45
        pen.polygon(
            [
                _at(0.5, 0.5, reach, angle),
                _at(0.5, 0.5, 0.3, angle + 0.2),
                _at(0.5, 0.5, 0.3, angle - 0.2),
            ],
            shade(pen.base, -0.06),
        )
    pen.disc(0.5, 0.5, 0.32, pen.base, shade(pen.base, -0.2))
    pen.disc(0.45, 0.43, 0.2, shade(pen.base, 0.13))
    pen.face(0.5, 0.5, 0.28)


def _star(pen: Pen, rng: np.random.Generator) -> None:
    inner = float(rng.uniform(0.2, 0.25))
    corners = [
        _at(0.5, 0.53, 0.46 if index % 2 == 0 else inner, math.pi * (index / 5 - 0.5))
        for index in range(10)
    ]
    pen.polygon(corners, pen.base)
    pen.line([*corners, corners[0], corners[1]], pen.dark, 0.05)
    pen.line([*corners, corners[0], corners[1]], pen.base, 0.022)
    for index in range(0, 10, 2):
        pen.line([(0.5, 0.53), corners[index]], shade(pen.base, 0.18), 0.03)
    pen.disc(0.5, 0.53, 0.19, shade(pen.base, 0.1))
    pen.face(0.5, 0.53, 0.22)


def _minion(pen: Pen, rng: np.random.Generator) -> None:
    denim: Color = (54, 92, 150)
    raised = rng.random() < 0.5
    for side in (-1, 1):
        hand = (0.5 + side * 0.37, 0.34 if raised and side > 0 else 0.76)
        pen.line([(0.5 + side * 0.2, 0.56), hand], pen.base, 0.1)
        pen.disc(*hand, 0.05, INK)
        pen.box((0.46 + side * 0.11, 0.88, 0.54 + side * 0.11, 0.99), INK, radius=0.03)
    for x in (0.4, 0.5, 0.6):
        pen.line([(0.48 + 0.2 * (x - 0.48), 0.1), (x, 0.01)], INK, 0.02)
    pen.box((0.2, 0.05, 0.8, 0.95), pen.base, pen.dark, 0.29)
    # Little denim: in pictures of 64 pixels the yellow has to say what this is.
    pen.polygon([(0.26, 0.86), (0.74, 0.86), (0.64, 0.94), (0.36, 0.94)], denim)
    pen.box((0.39, 0.74, 0.61, 0.89), denim, shade(denim, -0.3), 0.02)
    for side in (-1, 1):
        pen.line([(0.5 + side * 0.28, 0.66), (0.5 + side * 0.1, 0.76)], denim, 0.03)
    pen.line([(0.2, 0.31), (0.8, 0.31)], INK, 0.04)
    eyes = (0.5,) if rng.random() < 0.3 else (0.39, 0.61)
    radius = 0.12 if len(eyes) == 1 else 0.105
    for x in eyes:
        pen.disc(x, 0.31, radius, (150, 152, 160), INK)
        pen.disc(x, 0.31, radius * 0.72, WHITE)
        pen.disc(x + 0.015, 0.315, radius * 0.36, WOOD)
        pen.disc(x + 0.015, 0.315, radius * 0.17, INK)
    pen.line([(0.41, 0.53), (0.46, 0.57), (0.54, 0.57), (0.59, 0.53)], INK, 0.025)


def _boat(pen: Pen, rng: np.random.Generator) -> None:
    hull = shade(pen.base, -0.32)
    pen.line([(0.5, 0.04), (0.5, 0.72)], WOOD, 0.035)
    pen.polygon([(0.47, 0.08), (0.47, 0.66), (0.06, 0.66)], pen.base, pen.dark)
    pen.polygon([(0.54, 0.16), (0.54, 0.66), (0.9, 0.66)], shade(pen.base, 0.16), pen.dark)
    if rng.random() < 0.6:
        pen.polygon([(0.47, 0.36), (0.47, 0.46), (0.205, 0.46), (0.275, 0.36)], WHITE)
    pen.polygon([(0.5, 0.02), (0.5, 0.11), (0.66, 0.065)], (236, 96, 80))
    pen.polygon([(0.02, 0.7), (0.98, 0.7), (0.82, 0.97), (0.2, 0.97)], hull, shade(hull, -0.35))
    pen.polygon([(0.05, 0.75), (0.95, 0.75), (0.935, 0.8), (0.075, 0.8)], WHITE)
    for x in (0.34, 0.5, 0.66):
        pen.disc(x, 0.875, 0.035, shade(pen.base, 0.35), shade(hull, -0.3))


def _flower(pen: Pen, rng: np.random.Generator) -> None:
    stem: Color = (70, 140, 62)
    pen.line([(0.5, 0.42), (0.52, 0.7), (0.49, 0.99)], stem, 0.04)
    for side in (-1, 1):
        x = 0.5 + side * 0.02
        pen.polygon(
            [(x, 0.97), (x + side * 0.08, 0.86), (x + side * 0.2, 0.82), (x + side * 0.14, 0.94)],
            stem,
            shade(stem, -0.25),
        )
    petals = int(rng.integers(6, 9))
    turn = float(rng.uniform(0, 1))
    for index in range(petals):
        angle = 2 * math.pi * (index + turn) / petals
        pen.disc(*_at(0.5, 0.4, 0.26, angle), 0.15, pen.base, shade(pen.base, -0.22))
    pen.disc(0.5, 0.4, 0.25, pen.base)
    for index in range(petals):
        angle = 2 * math.pi * (index + turn) / petals
        pen.disc(*_at(0.5, 0.4, 0.27, angle), 0.07, shade(pen.base, 0.14))
    pen.disc(0.5, 0.4, 0.1, (250, 204, 72), (206, 140, 40))


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    edge = shade(pen.base, -0.28)
    fin = shade(pen.base, -0.1)
    pen.polygon([(0.74, 0.5), (0.98, 0.26), (0.93, 0.5), (0.98, 0.74)], fin, edge)
    pen.polygon([(0.34, 0.3), (0.52, 0.1), (0.68, 0.33)], fin, edge)
    pen.polygon([(0.44, 0.7), (0.6, 0.88), (0.64, 0.66)], fin, edge)
    pen.ellipse((0.04, 0.23, 0.84, 0.77), pen.base, edge)
    first = float(rng.uniform(-0.02, 0.02))
    for x in (0.34 + first, 0.6 + first):
        pen.polygon(_slice(x, x + 0.085), WHITE)
    pen.polygon([(0.43, 0.52), (0.56, 0.46), (0.55, 0.62)], fin, edge)
    pen.disc(0.2, 0.43, 0.065, WHITE, edge)
    pen.disc(0.19, 0.43, 0.034, INK)
    pen.line([(0.07, 0.58), (0.13, 0.61), (0.19, 0.59)], edge, 0.025)


def _at(x: float, y: float, radius: float, angle: float) -> tuple[float, float]:
    return x + radius * math.cos(angle), y + radius * math.sin(angle)


def _slice(left: float, right: float) -> list[tuple[float, float]]:
    """The part of the fish's body, a little inside its outline, between two x."""
    xs = np.linspace(left, right, 6)
    halves = 0.25 * np.sqrt(1 - ((xs - 0.44) / 0.4) ** 2)
    upper = [(float(x), float(0.5 - h)) for x, h in zip(xs, halves, strict=True)]
    return upper + [(x, 1.0 - y) for x, y in reversed(upper)]


_LAND = ("grass", "sand", "snow", "road")

THINGS: dict[str, Thing] = {
    "house": Thing(color=(172, 48, 52), draw=_house, home=_LAND, stands=True, size=(0.3, 0.5)),
    "tree": Thing(color=(24, 98, 54), draw=_tree, home=_LAND[:3], stands=True, size=(0.32, 0.5)),
    "sun": Thing(color=(255, 176, 34), draw=_sun, home=("sky",), stands=False, size=(0.26, 0.45)),
    "star": Thing(
        color=(255, 118, 186), draw=_star, home=("sky",), stands=False, size=(0.26, 0.42)
    ),
    "minion": Thing(color=(250, 222, 52), draw=_minion, home=_LAND, stands=True, size=(0.34, 0.52)),
    "boat": Thing(color=(48, 196, 172), draw=_boat, home=("water",), stands=True, size=(0.3, 0.5)),
    "flower": Thing(
        color=(124, 60, 206), draw=_flower, home=_LAND[:3], stands=True, size=(0.28, 0.46)
    ),
    "fish": Thing(
        color=(255, 104, 58), draw=_fish, home=("water",), stands=False, size=(0.3, 0.48)
    ),
}
"""The classes of objects, in the order of their label-map values."""
