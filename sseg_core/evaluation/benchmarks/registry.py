"""The benchmarks of `sseg eval`, by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sseg_core.config import EvalConfig, ToyWorldConfig
from sseg_core.data.toyworld import CLASSES, OBJECTS, render_scene
from sseg_core.errors import ConfigError, DataError, did_you_mean
from sseg_core.evaluation.examples import Benchmark, Example
from sseg_core.evaluation.pascal import context, voc2012

TOYWORLD_SCENES = 200

_ON_DISK = {"voc2012": voc2012, "context": context}

BENCHMARKS = ("toyworld", *_ON_DISK)


def open_benchmark(config: EvalConfig) -> Benchmark:
    """Return the benchmark that `config` names, cut to its limit.

    Raises:
        ConfigError: no such benchmark, or no root for one that needs it.
        DataError: its files are not where they should be.
    """
    if config.benchmark == "toyworld":
        count = min(TOYWORLD_SCENES, config.limit or TOYWORLD_SCENES)
        size = ToyWorldConfig().image_size
        return toyworld(seed=config.seed, size=size, count=count, split=config.split)
    if config.benchmark not in _ON_DISK:
        raise ConfigError(
            f"There is no benchmark {config.benchmark!r}.",
            did_you_mean(config.benchmark, BENCHMARKS),
        )
    if config.root is None:
        raise ConfigError(
            f"The benchmark {config.benchmark} needs its folder.", "Give it with --root DIR."
        )
    return _ON_DISK[config.benchmark](Path(config.root), config.split, limit=config.limit)


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
        load=partial(_load_scene, seed=seed, size=size, train=split == "train"),
        subsets={"objects": OBJECTS},
    )


def _load_scene(key: str, *, seed: int, size: int, train: bool) -> Example:
    scene = render_scene(seed, int(key), size, "train" if train else "val")
    return Example(key, scene.image, scene.label_map)
