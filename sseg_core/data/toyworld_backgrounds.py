"""The six grounds of the toy world: where each lies in a scene, and what it looks like.

All positions are in unit coordinates, x to the right and y downwards, so that a scene keeps its
composition at every size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]

_LINE_PAINT = np.array([236, 228, 204], np.float32)
_HORIZON = np.array([186, 224, 246], np.float32)

GROUND_COLORS: dict[str, tuple[int, int, int]] = {
    "grass": (146, 206, 82),
    "sand": (240, 212, 152),
    "water": (34, 112, 190),
    "sky": (118, 188, 242),
    "snow": (244, 247, 252),
    "road": (92, 92, 102),
}
BACKGROUNDS: tuple[str, ...] = tuple(GROUND_COLORS)

_STACKS: tuple[tuple[str, ...], ...] = (
    ("sky", "grass"),
    ("sky", "sand"),
    ("sky", "snow"),
    ("sky", "water"),
    ("sky", "water", "sand"),
    ("sky", "grass", "water"),
    ("sky", "road"),
    ("water", "sand"),
    ("water", "grass"),
    ("snow", "water"),
    ("sand", "road"),
    ("grass", "road", "grass"),
    ("snow", "road", "snow"),
    ("grass",),
    ("sand",),
    ("water",),
    ("snow",),
    ("sky",),
)
"""What lies below what, from the top of the picture. Every scene draws one of these."""

_LANE_SHARE = 0.25  # of the scenes that end in land get a road towards the horizon


class Layer(Protocol):
    """A ground that covers a part of the scene."""

    @property
    def name(self) -> str:
        """Its class."""

    def depth(self, x: Array, y: Array) -> Array:
        """How far inside the ground each point lies; negative outside."""

    def lane(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Where on a road each point lies: along it, across it from -1 to 1; its half width."""


@dataclass(frozen=True)
class Band:
    """Everything below a gently curved line."""

    name: str
    level: float
    waves: tuple[tuple[float, float, float], ...]  # amplitude, frequency, phase
    thickness: float

    def depth(self, x: Array, y: Array) -> Array:
        """See `Layer`."""
        depth = y - self.level
        for amplitude, frequency, phase in self.waves:
            depth = depth - amplitude * np.sin(2 * math.pi * frequency * x + phase)
        return depth.astype(np.float32)

    def lane(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """See `Layer`."""
        half = np.full_like(x, 0.5 * self.thickness)
        return 5 * x, self.depth(x, y) / half - 1, half


@dataclass(frozen=True)
class Lane:
    """A road that runs over a ground, from the near edge to the horizon."""

    name: str
    ground: Band
    horizon: float
    bottom_x: float
    top_x: float
    half_width: float

    def depth(self, x: Array, y: Array) -> Array:
        """See `Layer`."""
        _, center, half = self._perspective(y)
        depth: Array = np.minimum(half - np.abs(x - center), self.ground.depth(x, y))
        return depth

    def lane(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """See `Layer`."""
        near, center, half = self._perspective(y)
        return 1.6 / (near + 0.16), (x - center) / half, half

    def _perspective(self, y: Array) -> tuple[Array, Array, Array]:
        near = np.maximum((y - self.horizon) / (1 - self.horizon), 0)
        center = self.top_x + (self.bottom_x - self.top_x) * near
        return near, center, self.half_width * (0.08 + 0.92 * near)


def draw_layout(rng: np.random.Generator) -> list[Layer]:
    """Draw the grounds of a scene; later layers lie over earlier ones."""
    stack = _STACKS[int(rng.integers(len(_STACKS)))]
    edges = _edges(len(stack), rng)
    bands: list[Band] = []
    for index, name in enumerate(stack):
        flat = name in ("water", "road") or (index > 0 and stack[index - 1] == "road")
        amplitude = 0.006 if flat else float(rng.uniform(0.02, 0.06))
        waves = tuple(
            (amplitude / order, order * float(rng.uniform(0.5, 1.0)), float(rng.uniform(0, 6.28)))
            for order in (1, 2)
        )
        bands.append(
            Band(
                name=name,
                level=edges[index] if index else -0.1,
                waves=waves if index else (),
                thickness=edges[index + 1] - edges[index],
            )
        )
    may_have_lane = stack[-1] in ("grass", "sand", "snow") and "road" not in stack
    if may_have_lane and len(stack) < 3 and rng.random() < _LANE_SHARE:
        lane = Lane(
            name="road",
            ground=bands[-1],
            horizon=bands[-1].level - 0.06,
            bottom_x=float(rng.uniform(0.2, 0.8)),
            top_x=float(rng.uniform(0.3, 0.7)),
            half_width=float(rng.uniform(0.22, 0.36)),
        )
        return [*bands, lane]
    return [*bands]


def ground_at(layers: list[Layer], x: float, y: float) -> str:
    """Return the name of the ground at one point."""
    at_x, at_y = np.array([x], np.float32), np.array([y], np.float32)
    covering = [layer.name for layer in layers if layer.depth(at_x, at_y)[0] >= 0]
    return covering[-1]


def paint_layers(
    layers: list[Layer], rng: np.random.Generator, size: int
) -> tuple[Array, NDArray[np.uint8]]:
    """Paint the grounds.

    Returns:
        [size, size, 3] colours in [0, 255] and [size, size] indices into `BACKGROUNDS`.
    """
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    canvas = np.zeros((size, size, 3), np.float32)
    labels = np.zeros((size, size), np.uint8)
    for layer in layers:
        depth = layer.depth(x, y)
        if layer.name == "road":
            paint = _road(*layer.lane(x, y), rng)
        else:
            paint = _PAINTERS[layer.name](x, y, np.maximum(depth, 0), rng)
        opacity = np.clip(depth * size + 0.5, 0, 1)[..., None]
        canvas += (paint - canvas) * opacity
        labels[depth >= 0] = BACKGROUNDS.index(layer.name)
    return canvas, labels


def _edges(bands: int, rng: np.random.Generator) -> list[float]:
    """The top of each band, and 1: no band is thinner than a fifth of the scene."""
    shares = rng.dirichlet(np.full(bands, 6.0)) * (1 - 0.2 * bands) + 0.2
    return [0.0, *(float(edge) for edge in np.cumsum(shares)[:-1]), 1.0]


def _noise(rng: np.random.Generator, rows: int, columns: int, size: int) -> Array:
    """Smooth noise of unit variance on a coarse grid, [size, size]."""
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _mixed(name: str, rng: np.random.Generator) -> Array:
    tint = rng.normal(0, 4, size=3) + rng.normal(0, 4)
    return (np.array(GROUND_COLORS[name]) + tint).astype(np.float32)


def _toned(
    name: str,
    brightness: Array,
    weights: tuple[float, float, float],
    rng: np.random.Generator,
) -> Array:
    """A tint of the ground's colour plus `brightness`, weighed for each channel."""
    return _mixed(name, rng) + brightness[..., None] * np.array(weights, np.float32)


def _grass(x: Array, _y: Array, depth: Array, rng: np.random.Generator) -> Array:
    size = len(x)
    blades = 5 * _noise(rng, 40, 64, size) + 5 * _noise(rng, 6, 5, size)
    near = 12 - 34 * np.minimum(depth, 0.7)
    return _toned("grass", blades + near, (1, 1, 0.7), rng)


def _sand(x: Array, y: Array, depth: Array, rng: np.random.Generator) -> Array:
    size = len(x)
    ripples = np.sin(2 * math.pi * (9 * y + 0.35 * _noise(rng, 4, 4, size)))
    grain = 4 * _noise(rng, 72, 72, size) + 4 * ripples - 14 * np.minimum(depth, 0.7)
    return _toned("sand", grain, (1, 1, 1.1), rng)


def _water(x: Array, y: Array, depth: Array, rng: np.random.Generator) -> Array:
    size = len(x)
    warp = 0.5 * _noise(rng, 5, 4, size)
    crests = np.sin(2 * math.pi * (16 * np.sqrt(np.maximum(y, 0) + 0.02) + warp))
    foam = 26 * np.clip(crests - 0.55, 0, 1) + 4 * _noise(rng, 5, 5, size)
    near = 16 - 44 * np.minimum(depth, 0.8)
    return _toned("water", foam + near, (0.8, 1, 0.9), rng)


def _sky(x: Array, y: Array, _depth: Array, rng: np.random.Generator) -> Array:
    height = np.clip(y / 0.8, 0, 1)[..., None]
    paint: Array = _mixed("sky", rng) * (1 - height) + _HORIZON * height
    for _ in range(int(rng.integers(0, 3))):
        center_x, center_y, scale = (float(v) for v in rng.uniform((0, 0.05, 0.05), (1, 0.4, 0.1)))
        cloud = np.full_like(x, -1.0)
        for offset, lift, radius in ((-1.3, 0.0, 0.7), (0.0, -0.35, 1.0), (1.2, -0.05, 0.8)):
            dx, dy = x - (center_x + offset * scale), y - (center_y + lift * scale)
            cloud = np.maximum(cloud, radius - np.sqrt(dx * dx + 1.6 * dy * dy) / scale)
        opacity = 0.62 * np.clip(3.5 * cloud, 0, 1)[..., None]
        paint += (255 - paint) * opacity
    return paint


def _snow(x: Array, _y: Array, depth: Array, rng: np.random.Generator) -> Array:
    size = len(x)
    drifts = 5 * _noise(rng, 5, 4, size) - 16 * np.minimum(depth, 0.7)
    sparkle = 3 * _noise(rng, 80, 80, size)
    return _toned("snow", drifts + sparkle, (1.2, 1, 0.5), rng)


def _road(along: Array, across: Array, half: Array, rng: np.random.Generator) -> Array:
    size = len(along)
    paint = _mixed("road", rng) + (4 * _noise(rng, 72, 72, size))[..., None]
    from_line = np.minimum(np.abs(np.abs(across) - 0.88) - 0.035, _dash(along, across))
    opacity = np.clip(0.5 - from_line * half * size, 0, 1)[..., None]
    painted: Array = paint + (_LINE_PAINT - paint) * opacity
    return painted


def _dash(along: Array, across: Array) -> Array:
    """Distance to the dashes in the middle; half of the length of a dash and gap is dash."""
    return np.where(np.mod(along, 1.0) < 0.5, np.abs(across) - 0.055, 1.0).astype(np.float32)


_PAINTERS = {"grass": _grass, "sand": _sand, "water": _water, "sky": _sky, "snow": _snow}
