"""The benchmarks of `sseg eval`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import AskConfig, ToyWorldConfig
from sseg_core.data.sources import BENCHMARKS as SOURCES
from sseg_core.errors import ConfigError, did_you_mean
from sseg_core.evaluation.benchmarks.ade20k import ade20k
from sseg_core.evaluation.benchmarks.coco import coco_object
from sseg_core.evaluation.benchmarks.coco_stuff import coco_stuff
from sseg_core.evaluation.benchmarks.folder import folder
from sseg_core.evaluation.benchmarks.imagenet_s import imagenet_s_50, imagenet_s_300, imagenet_s_919
from sseg_core.evaluation.benchmarks.lvis import lvis_v05, lvis_v1
from sseg_core.evaluation.benchmarks.pascal import context, voc2012
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.benchmarks.toyworld import TOYWORLD_SCENES, toyworld
from sseg_core.evaluation.examples import Benchmark
from sseg_core.tracking import SILENT, Progress

FOLDER = "folder:"

_ON_DISK: Mapping[str, Callable[[BenchmarkRequest], Benchmark]] = {
    "voc2012": voc2012,
    "context": context,
    "coco-object": coco_object,
    "coco-stuff": coco_stuff,
    "ade20k": ade20k,
    "lvis-v1": lvis_v1,
    "lvis-v0.5": lvis_v05,
    "imagenet-s-50": imagenet_s_50,
    "imagenet-s-300": imagenet_s_300,
    "imagenet-s-919": imagenet_s_919,
}

BENCHMARKS = ("toyworld", *_ON_DISK, f"{FOLDER}DIR")


def open_benchmark(
    config: AskConfig,
    store: ArtifactStore | None = None,
    progress: Progress = SILENT,
    *,
    write: bool = True,
) -> Benchmark:
    """Return the benchmark that `config` names, cut to its limit.

    Args:
        config: names it, its root, split and limit.
        store: where a benchmark whose files take long to read keeps its label maps; default: the
            usual store.
        progress: is told of that reading.
        write: whether it may write there.

    Raises:
        ConfigError: no such benchmark, or no root for one that needs it.
        DataError: its files are not where they should be.
    """
    name, root = config.benchmark, config.root
    opener: Callable[[BenchmarkRequest], Benchmark]
    if name == "toyworld":
        count = min(TOYWORLD_SCENES, config.limit or TOYWORLD_SCENES)
        size = ToyWorldConfig().image_size
        return toyworld(seed=config.seed, size=size, count=count, split=config.split)
    if name.startswith(FOLDER):
        opener, root = folder, name.removeprefix(FOLDER) or root
    elif name in _ON_DISK:
        opener = _ON_DISK[name]
    else:
        raise ConfigError(f"There is no benchmark {name!r}.", did_you_mean(name, BENCHMARKS))
    if root is None:
        source = next((s.name for s in SOURCES if name in dict(s.evaluates)), None)
        fetch = f", or fetch it first: sseg download {source}" if source else ""
        raise ConfigError(
            f"The benchmark {name} needs its folder.", f"Give it with --root DIR{fetch}."
        )
    return opener(
        BenchmarkRequest(
            root=Path(root).expanduser(),
            split=config.split,
            limit=config.limit,
            store=store or ArtifactStore.default(),
            progress=progress,
            write=write,
        )
    )
