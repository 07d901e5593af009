"""The toy world: procedural scenes with captions and exact truth, to try everything offline.

A scene is a function of the seed, the split, its index and the size; its composition does not
depend on the size. Not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sseg_core.data.toyworld_backgrounds import (
    BACKGROUNDS,
    GROUND_COLORS,
    Layer,
    draw_layout,
    ground_at,
    paint_layers,
)
from sseg_core.data.toyworld_captions import write_captions
from sseg_core.data.toyworld_objects import THINGS, draw_object

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "CLASS_COLORS",
    "OBJECTS",
    "Scene",
    "render_scene",
    "visible_classes",
]

Split = Literal["train", "val"]

OBJECTS: tuple[str, ...] = tuple(THINGS)
CLASSES: tuple[str, ...] = (*OBJECTS, *BACKGROUNDS)
"""The names of the label-map values 0, 1, 2, ..."""

CLASS_COLORS: NDArray[np.uint8] = np.array(
    [*(thing.color for thing in THINGS.values()), *GROUND_COLORS.values()], dtype=np.uint8
)
"""[C, 3] the colour family of each class, to show label maps in."""

VISIBLE_SHARE = 0.01
"""Captions name the classes that cover at least this share of the pixels."""

_AT_HOME = 0.88  # of the objects are placed on a ground of their home, where the scene has one
_MAX_OVERLAP = 0.12  # of the smaller of two objects' squares
_TRIES = 40


@dataclass(frozen=True)
class Scene:
    """A picture, its truth and its captions.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        label_map: [H, W] uint8 index into `CLASSES`; every pixel has one.
        captions: two or three sentences that each name exactly `visible_classes(label_map)`.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Placed:
    name: str
    x: float  # of the middle
    y: float
    side: float
    ground: str

    @property
    def foot(self) -> float:
        return self.y + 0.48 * self.side


def render_scene(seed: int, index: int, size: int, split: Split = "train") -> Scene:
    """Render one scene.

    Args:
        seed: names a world, >= 0.
        index: number of the scene in it, >= 0.
        size: side of the square picture in pixels.
        split: scenes to learn from, or held-out ones; no scene is in both.
    """
    stream = 0 if split == "train" else 1
    rng = np.random.default_rng([seed, stream, index])
    layers = draw_layout(rng)
    objects = _place_objects(layers, rng)
    canvas, grounds = paint_layers(layers, rng, size)
    label_map = grounds + np.uint8(len(OBJECTS))
    for thing in sorted(objects, key=lambda o: (THINGS[o.name].stands, o.foot)):
        if THINGS[thing.name].stands and thing.ground not in ("sky", "water"):
            _cast_shadow(canvas, thing)
        _paste(canvas, label_map, thing, rng)
    visible = visible_classes(label_map)
    captions = write_captions(
        rng,
        [(thing.name, thing.ground) for thing in objects if thing.name in visible],
        [name for name in BACKGROUNDS if name in visible],
    )
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, label_map, captions)


def visible_classes(label_map: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the classes with at least `VISIBLE_SHARE` of the pixels, in the order of `CLASSES`."""
    counts = np.bincount(label_map.ravel(), minlength=len(CLASSES))
    return tuple(
        name
        for name, count in zip(CLASSES, counts, strict=True)
        if count >= VISIBLE_SHARE * label_map.size
    )


def _place_objects(layers: list[Layer], rng: np.random.Generator) -> list[_Placed]:
    """Choose one to three different objects and a place for each where there is room."""
    present = {layer.name for layer in layers}
    weights = np.array([_weight(present, THINGS[name].home) for name in OBJECTS])
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3]))
    chosen = rng.choice(len(OBJECTS), size=count, replace=False, p=weights / weights.sum())
    placed: list[_Placed] = []
    for number in chosen:
        name = OBJECTS[int(number)]
        thing = THINGS[name]
        at_home = bool(present & {*thing.home}) and rng.random() < _AT_HOME
        side = float(rng.uniform(*thing.size))
        for _ in range(_TRIES):
            x, y = (float(v) for v in rng.uniform(0.5 * side, 1 - 0.5 * side, size=2))
            ground = ground_at(layers, x, y + 0.47 * side if thing.stands else y)
            candidate = _Placed(name, x, y, side, ground)
            if at_home and ground not in thing.home:
                continue
            if all(_overlap(candidate, other) <= _MAX_OVERLAP for other in placed):
                placed.append(candidate)
                break
            side = max(thing.size[0], 0.97 * side)
    return placed


def _weight(present: set[str], home: tuple[str, ...]) -> float:
    """How likely an object is: rarely a stranger, and as often one of the sky as of the land."""
    if not present & {*home}:
        return 0.15
    return 1.0 if len(home) == 1 else 0.55


def _overlap(a: _Placed, b: _Placed) -> float:
    reach = 0.5 * (a.side + b.side)
    width = min(max(0.0, reach - abs(a.x - b.x)), a.side, b.side)
    height = min(max(0.0, reach - abs(a.y - b.y)), a.side, b.side)
    return width * height / min(a.side, b.side) ** 2


def _cast_shadow(canvas: NDArray[np.float32], thing: _Placed) -> None:
    size = len(canvas)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    across = (axis - thing.x - 0.06 * thing.side) / (0.42 * thing.side)
    along = (axis - thing.foot + 0.01 * thing.side) / (0.075 * thing.side)
    falloff = np.exp(-(along[:, None] ** 2) - across[None, :] ** 2)
    canvas *= (1 - 0.3 * falloff)[..., None]


def _paste(
    canvas: NDArray[np.float32],
    label_map: NDArray[np.uint8],
    thing: _Placed,
    rng: np.random.Generator,
) -> None:
    """Draw one object over the scene; pixels it covers by half or more are its own."""
    size = len(canvas)
    pixels = max(8, round(thing.side * size))
    patch = draw_object(thing.name, rng, pixels)
    top, left = (round((v - 0.5 * thing.side) * size) for v in (thing.y, thing.x))
    rows = slice(max(0, top), min(size, top + pixels))
    columns = slice(max(0, left), min(size, left + pixels))
    patch = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    opacity = patch[..., 3:] / 255
    canvas[rows, columns] += (patch[..., :3] - canvas[rows, columns]) * opacity
    label_map[rows, columns][opacity[..., 0] >= 0.5] = OBJECTS.index(thing.name)
