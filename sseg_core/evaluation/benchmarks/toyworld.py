"""The toy world as a benchmark."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from sseg_core.data.images import RGBImage
from sseg_core.data.toyworld import CLASSES, OBJECTS, Scene, render_scene
from sseg_core.errors import DataError, did_you_mean
from sseg_core.evaluation.examples import Benchmark, LabelMap

TOYWORLD_SCENES = 200


def toyworld(
    *, seed: int, size: int, count: int = TOYWORLD_SCENES, split: str = "val"
) -> Benchmark:
    """Return scenes of the toy world; those of the split `val` are never trained on.

    Every pixel has a class. The subset `objects` leaves out the grounds.

    Raises:
        DataError: no such split.
    """
    if split not in {"train", "val"}:
        raise DataError(f"The toy world has no split {split!r}.", did_you_mean(split, ("val",)))
    return Benchmark(
        name="toyworld",
        class_names=CLASSES,
        has_background=False,
        keys=tuple(f"{index:06d}" for index in range(count)),
        split=split,
        image=partial(_image, seed, size, split),
        truth=partial(_truth, seed, size, split),
        subsets={"objects": OBJECTS},
    )


def _image(seed: int, size: int, split: str, key: str) -> RGBImage:
    return _scene(seed, size, split, key).image


def _truth(seed: int, size: int, split: str, key: str) -> LabelMap:
    return _scene(seed, size, split, key).label_map.astype(np.int16)


@lru_cache(maxsize=1)  # image and truth of a scene are asked for one after the other
def _scene(seed: int, size: int, split: str, key: str) -> Scene:
    return render_scene(seed, int(key), size, "train" if split == "train" else "val")
