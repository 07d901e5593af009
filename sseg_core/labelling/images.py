"""The images that a teacher labels: those of a benchmark, or a folder of photos.

The truth of a benchmark is never read. The same images are found again when a student learns from
their labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import LabelConfig, ToyWorldConfig
from sseg_core.data.images import IMAGE_SUFFIXES, ImageError, RGBImage
from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.evaluation.benchmarks.paired_files import read_photo
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.benchmarks.toyworld import TOYWORLD_SCENES, toyworld
from sseg_core.evaluation.examples import Benchmark, LabelMap
from sseg_core.text.prompts import check_class_names
from sseg_core.tracking import SILENT, Progress

_TOYWORLD = "toyworld"


@dataclass(frozen=True, eq=False)
class KnownImages:
    """Reads images by key, and only those it knows: a key may come from a stranger's file.

    Attributes:
        read: returns the image of a key.
        keys: of all images.
    """

    read: Callable[[str], RGBImage]
    keys: frozenset[str]

    def __call__(self, key: str) -> RGBImage:
        """Return the [H, W, 3] uint8 RGB image of a key.

        Raises:
            ImageError: it cannot be read, or the key is none of these images.
        """
        if key not in self.keys:
            raise ImageError("unreadable", "is none of those that were labelled", _named(key))
        return self.read(key)


@dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """Images, and the classes to look for in them.

    Attributes:
        benchmark: the images with the classes, the background rule and the name that protocols
            know; its truth is not to be read.
        image: returns the image of a key; it can be pickled, for loader processes.
        source: where the images are from, as JSON values: `benchmark`, `split`, `root` and
            `images`, None where there is none.
    """

    benchmark: Benchmark
    image: KnownImages
    source: dict[str, Any]

    @property
    def name(self) -> str:
        """What they are called."""
        return self.benchmark.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the images, in order; those of photos are their paths below the folder."""
        return self.benchmark.keys

    def __len__(self) -> int:
        return len(self.benchmark)


def open_images(
    config: LabelConfig, store: ArtifactStore, progress: Progress = SILENT
) -> UnlabelledImages:
    """Return the images that `config` names, cut to its limit.

    Without `images` they are those of the benchmark's split; of the toy world's split train there
    are as many as `limit` says, by default as many as `sseg download toyworld` makes. With `images`
    they are the photos of a folder and its subfolders (symbolic links to folders and hidden files
    are left out), and the classes are either `classes` or those of the benchmark at `root`, whose
    background is then looked for too. `classes` have a background if a threshold is set.

    Args:
        config: names them.
        store: where a benchmark keeps what it has read before; nothing is written there.
        progress: is told what is read.

    Raises:
        ConfigError: no such benchmark, no root for one that needs it, or classes that are missing,
            said twice or unusable.
        DataError: the files are not where they should be, or there is no image among them.
    """
    benchmark = _benchmark(config, store, progress)
    source: dict[str, Any] = {
        "benchmark": None if config.classes else config.benchmark,
        "split": None if config.images else config.split,
        "root": _absolute(config.root),
        "images": _absolute(config.images),
    }
    known = KnownImages(benchmark.image, frozenset(benchmark.keys))
    return UnlabelledImages(benchmark, known, source)


def _benchmark(config: LabelConfig, store: ArtifactStore, progress: Progress) -> Benchmark:
    if config.images is None:
        if config.classes is not None:
            raise ConfigError(
                "Classes are given, but no photos in which to look for them.",
                "Give their folder as images, or leave the classes to the benchmark.",
            )
        if config.benchmark == _TOYWORLD:
            scenes = ToyWorldConfig().scenes if config.split == "train" else TOYWORLD_SCENES
            return toyworld(
                seed=config.seed,
                size=ToyWorldConfig().image_size,
                count=config.limit or scenes,
                split=config.split,
            )
        return open_benchmark(config, store, progress, write=False)
    root = Path(config.images).expanduser()
    keys = _photos(root)
    asked = _asked(config, store, progress)
    return replace(
        asked,
        keys=keys[: config.limit],
        image=partial(read_photo, partial(_path, root)),
        truth=_no_truth,
        split="",
        subsets={},
        source="",
    )


def _asked(config: LabelConfig, store: ArtifactStore, progress: Progress) -> Benchmark:
    """Return a benchmark with the classes that are looked for in photos."""
    if config.classes is not None:
        if config.benchmark != _TOYWORLD or config.root is not None:
            raise ConfigError(
                f"Classes are given, and those of the benchmark {config.benchmark} too.",
                "Leave one of the two out.",
            )
        names = check_class_names(config.classes)
        has_background = bool(config.threshold) or config.background in {"threshold", "words"}
        if has_background and "background" in map(str.casefold, names):
            raise ConfigError(
                "Background is what lies below the threshold, but it is a class as well.",
                "Leave it out of the classes, or leave the threshold out.",
            )
        return Benchmark("photos", names, has_background, (), _no_image, _no_truth)
    if config.benchmark == _TOYWORLD:
        raise ConfigError(
            "It is not said which classes to look for in the photos.",
            "Give classes, or a benchmark with its root, whose classes are taken.",
        )
    try:  # The classes of all splits are the same, and this one is the smallest.
        of_val = config.model_copy(update={"split": "val", "limit": 1})
        return open_benchmark(of_val, store, progress, write=False)
    except DataError:
        return open_benchmark(config, store, progress, write=False)


def _photos(root: Path) -> tuple[str, ...]:
    """Return the paths of all photos below a folder, relative to it and sorted."""

    def refuse(error: OSError) -> None:
        reason = (error.strerror or "unknown error").lower()
        raise DataError(
            f"The folder {printable(error.filename, None)} cannot be read: {reason}.",
            "Give a folder of photos as images.",
        ) from error

    found: list[str] = []
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders[:] = (name for name in subfolders if not name.startswith("."))
        found += (
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        )
    if not found:
        raise DataError(
            f"There is no photo in {printable(root, None)}.",
            f"It is searched for files of these kinds: {' '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return tuple(sorted(found))


def _path(root: Path, key: str) -> Path:
    return root / key


def _no_image(key: str) -> RGBImage:
    raise ImageError("unreadable", "does not exist", _named(key))


def _no_truth(key: str) -> LabelMap:
    raise ImageError("bad truth", "has none: nobody labelled it", _named(key))


def _named(key: str) -> str:
    return f"The image {printable(key)}"


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
