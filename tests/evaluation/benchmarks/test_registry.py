"""Benchmarks are found by name."""

from __future__ import annotations

import numpy as np
import pytest

from sseg_core.config import EvalConfig
from sseg_core.data.toyworld import CLASSES, OBJECTS, render_scene
from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.benchmarks.toyworld import toyworld


def test_toyworld_examples_are_held_out_scenes() -> None:
    """They are the scenes of the split `val`; the labels index the classes; no background."""
    benchmark = toyworld(seed=3, size=40, count=2)
    assert benchmark.class_names == CLASSES
    assert dict(benchmark.subsets) == {"objects": OBJECTS}
    assert not benchmark.has_background
    for index, example in enumerate(benchmark):
        scene = render_scene(3, index, 40, split="val")
        assert np.array_equal(example.image, scene.image)
        assert np.array_equal(example.truth, scene.label_map)
    assert len(open_benchmark(EvalConfig())) == 200
    assert len(open_benchmark(EvalConfig(limit=5))) == 5


def test_unknown_benchmarks_and_splits_get_a_suggestion() -> None:
    """`voc` is nearest to voc2012; those on disk need a root; toyworld has no `test`."""
    with pytest.raises(ConfigError, match="voc2012"):
        open_benchmark(EvalConfig(benchmark="voc201"))
    for name in ("voc2012", "context"):
        with pytest.raises(ConfigError, match=f"{name} needs its folder.*--root"):
            open_benchmark(EvalConfig(benchmark=name))
    with pytest.raises(DataError, match="no split 'test'"):
        open_benchmark(EvalConfig(split="test"))
