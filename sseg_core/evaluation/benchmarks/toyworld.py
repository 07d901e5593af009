"""The toy world as a benchmark."""

from __future__ import annotations

from functools import partial

import numpy as np

from sseg_core.data.toyworld import CLASSES, OBJECTS, render_scene
from sseg_core.errors import DataError, did_you_mean
from sseg_core.evaluation.examples import Benchmark, Example

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
        load=partial(_load_scene, seed=seed, size=size, train=split == "train"),
        subsets={"objects": OBJECTS},
    )


def _load_scene(key: str, *, seed: int, size: int, train: bool) -> Example:
    scene = render_scene(seed, int(key), size, "train" if train else "val")
    return Example(key, scene.image, scene.label_map.astype(np.int16))
