"""`sseg download voc2012` and the like: a benchmark fetched, unpacked, and read once as a check."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.data.fetch.archives import unpack, unpacking
from sseg_core.data.fetch.big_file import fetch_file
from sseg_core.data.fetch.plan import DownloadPlan, size_text
from sseg_core.data.sources import BenchmarkSource, Part
from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.tracking import SILENT, Progress

RECORD = "SOURCES.json"
"""The file in the root that tells where everything in it came from, and on what terms."""

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_ARCHIVE_FOLDER = ".downloads"
_VALIDATION = "validation"


@dataclass(frozen=True)
class FetchedBenchmark:
    """A benchmark that is there now.

    Attributes:
        name: of the source.
        root: the folder for `sseg eval --root`.
        images: of the split val, by the name that `sseg eval --benchmark` knows.
        fetched: names of the files that had to be fetched.
    """

    name: str
    root: Path
    images: dict[str, int]
    fetched: tuple[str, ...]


def plan(source: BenchmarkSource, root: Path) -> DownloadPlan:
    """Return what `run` takes, before it starts."""
    missing = [part for part in source.parts if not _is_there(part, root)]
    sizes = [part.file.bytes for part in missing]
    known = sum(size for size in sizes if size)
    # One archive at a time is there beside what is unpacked, and then removed.
    unpacked = sum(part.unpacked or part.file.bytes or 0 for part in missing)
    notes = [
        f"{printable(part.file.name)}: {_state(part, missing)}, from {part.file.url}"
        for part in source.parts
    ]
    if source.needs:
        notes.append(f"needs {source.needs}: sseg download {source.name}:DIR")
    return DownloadPlan(
        source.name,
        source.contents,
        "its publisher",
        root,
        licence=source.licence,
        terms=source.terms,
        images=sum(count for _, count in source.evaluates) or None,
        download_bytes=known or None,
        disk_bytes=unpacked + max((size or 0 for size in sizes), default=0) or None,
        notes=tuple(notes),
    )


def run(
    source: BenchmarkSource,
    root: Path,
    *,
    store: ArtifactStore,
    imagenet: Path | None = None,
    progress: Progress = SILENT,
) -> FetchedBenchmark:
    """Fetch what is missing of a benchmark into the layout that `sseg eval --root` reads.

    Args:
        source: of the table.
        root: folder of the benchmark, made if need be; several may share it.
        store: where `sseg eval` keeps the truth that takes long to read.
        imagenet: the user's validation images of ImageNet, for a source that needs them.
        progress: is told of the megabytes and files.

    Raises:
        DataError: a file cannot be had or unpacked, or what is there then is not the benchmark.
    """
    if source.needs and imagenet is None and not all(_is_there(p, root) for p in source.parts):
        raise DataError(
            f"{source.name} needs {source.needs}, which you have to bring.",
            f"Give their folder: sseg download {source.name}:DIR",
        )
    progress.message(f"licence: {source.licence}; terms: {source.terms}")
    fetched = []
    for part in source.parts:
        if not _is_there(part, root):
            _fetch(part, root, progress)
            _record(source, part, root)
            fetched.append(part.file.name)
    if imagenet is not None:
        _place_images(root, imagenet, progress)
    images = {
        name: _checked(name, count, root, store, progress) for name, count in source.evaluates
    }
    return FetchedBenchmark(source.name, root, images, tuple(fetched))


def _is_there(part: Part, root: Path) -> bool:
    """Tell whether a part was unpacked, and not only half of it."""
    return not unpacking(part.file.name, root / part.into).exists() and all(
        (root / path).exists() for path in part.makes
    )


def _fetch(part: Part, root: Path, progress: Progress) -> None:
    name = part.file.name
    if not name.endswith(_ARCHIVES):
        fetch_file(part.file, root / part.into / name, progress)
        return
    archive = root / _ARCHIVE_FOLDER / name
    fetch_file(part.file, archive, progress)
    unpack(archive, root / part.into, progress, members=part.members)
    missing = [path for path in part.makes if not (root / path).exists()]
    if missing:
        raise DataError(
            f"{printable(name)} does not hold {missing[0]}: its publisher has changed it.",
            f"Unpack {printable(archive, None)} yourself, or fetch an older copy.",
        )
    archive.unlink()
    if not any(archive.parent.iterdir()):
        archive.parent.rmdir()


def _record(source: BenchmarkSource, part: Part, root: Path) -> None:
    """Add to the record where a part came from, and on what terms."""
    path = root / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    record[part.file.name] = {
        **{name: value for name, value in asdict(part.file).items() if value},
        "licence": source.licence,
        "terms": source.terms,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.replace(path)


def _place_images(root: Path, imagenet: Path, progress: Progress) -> None:
    """Link, or else copy, the images of ImageNet that the label images belong to.

    ImageNet's validation images lie in one folder, or in one for each class; ImageNet-S has merged
    some classes. They are found by their own names, which are unique.

    Raises:
        DataError: images are missing.
    """
    if not imagenet.is_dir():
        raise DataError(f"There is no folder {printable(imagenet, None)}.", "Check the path.")
    wanted = list(_wanted_images(root))
    progress.start("place", len(wanted), "images")
    places = {path.name: path for path in imagenet.rglob("ILSVRC2012_val_*.JPEG")}
    missing = [image.name for image in wanted if image.name not in places]
    if missing:
        raise DataError(
            f"{printable(imagenet, None)} lacks {len(missing):,} of {len(wanted):,} images, for "
            f"example {missing[0]}.",
            "Give the folder with the validation images of ImageNet (ILSVRC2012_val_*.JPEG).",
        )
    for image in wanted:
        if not image.exists():
            image.parent.mkdir(parents=True, exist_ok=True)
            partial = image.with_name(f"{image.name}.partial")
            partial.unlink(missing_ok=True)
            try:
                os.link(places[image.name], partial)
            except OSError:  # of another file system, or one without links
                shutil.copyfile(places[image.name], partial)
            partial.replace(image)
        progress.advance()


def _wanted_images(root: Path) -> Iterator[Path]:
    """Yield where the image of every label image has its place."""
    for labels in sorted(root.glob(f"ImageNetS*/{_VALIDATION}-segmentation/*/*.png")):
        home = labels.parents[2]
        yield home / _VALIDATION / labels.parent.name / f"{labels.stem}.JPEG"


def _checked(name: str, expected: int, root: Path, store: ArtifactStore, progress: Progress) -> int:
    """Return how many images a benchmark has; it is opened as `sseg eval` does.

    Raises:
        DataError: it cannot be read, or images are missing.
    """
    config = EvalConfig(benchmark=name, root=str(root))
    benchmark = open_benchmark(config, store, progress)
    found = len(benchmark.keys)
    if found != expected:
        raise DataError(
            f"{name} in {printable(root, None)} has {found:,} images instead of {expected:,}.",
            f"Remove what is there, and run again: sseg download --root {printable(root, None)}",
        )
    benchmark.image(benchmark.keys[0])
    benchmark.truth(benchmark.keys[0])
    return found


def _state(part: Part, missing: list[Part]) -> str:
    if part not in missing:
        return "is there"
    return "size unknown" if part.file.bytes is None else size_text(part.file.bytes)
