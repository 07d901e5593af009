"""`sseg download voc2012` and the like: a benchmark fetched, unpacked, and read once as a check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.data.fetch.archives import unpack, unpacking
from sseg_core.data.fetch.big_file import fetch_file
from sseg_core.data.fetch.partial_file import PartialFile
from sseg_core.data.fetch.plan import DownloadPlan, size_text
from sseg_core.data.sources import BenchmarkSource, Part
from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.stages.imagenet_s_images import missing_images, place_images
from sseg_core.tracking import SILENT, Progress

RECORD = "SOURCES.json"
"""The file in the root that tells where everything in it came from, and on what terms."""

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_ARCHIVE_FOLDER = ".downloads"


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
    """Return what `run` still takes, before it starts."""
    missing = [part for part in source.parts if not _is_there(part, root)]
    known = [part for part in missing if part.file.bytes is not None]
    left = sum((part.file.bytes or 0) - _come(part, root) for part in known)
    # One archive at a time is there beside what is unpacked, and then removed.
    largest = max(((part.file.bytes or 0) - _come(part, root) for part in known), default=0)
    unpacked = sum(part.unpacked or part.file.bytes or 0 for part in missing)
    notes = [
        f"{printable(part.file.name)}: {_state(part, root)}, from {part.file.url}"
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
        download_bytes=left or None,
        disk_bytes=unpacked + largest or None,
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
        ConfigError: `imagenet` is given for a source that needs nothing of the user's.
        DataError: a file cannot be had or unpacked, or what is there then is not the benchmark.
    """
    if imagenet is not None and not source.needs:
        raise ConfigError(
            f"{source.name} needs no folder {printable(imagenet)} of yours.",
            f"Leave it out; where it goes is said with --root DIR: sseg download {source.name}",
        )
    if imagenet is None and source.needs and not _is_complete(source, root):
        raise DataError(
            f"{source.name} needs {source.needs}, which you have to bring.",
            f"Give their folder: sseg download {source.name}:DIR",
        )
    if imagenet is not None and not imagenet.is_dir():
        raise DataError(f"There is no folder {printable(imagenet, None)}.", "Check the path.")
    progress.message(f"licence: {source.licence}; terms: {source.terms}")
    fetched = _fetch_missing(source, root, progress)
    if imagenet is not None and (wanted := missing_images(root)):
        with _alone(root, progress):
            place_images(wanted, imagenet, progress)
    images = {
        name: _checked(name, count, source, root, store=store, progress=progress)
        for name, count in source.evaluates
    }
    return FetchedBenchmark(source.name, root, images, fetched)


def _is_complete(source: BenchmarkSource, root: Path) -> bool:
    return all(_is_there(part, root) for part in source.parts) and not missing_images(root)


def _is_there(part: Part, root: Path) -> bool:
    """Tell whether a part was unpacked, and not only half of it."""
    return not unpacking(part.file.name, root / part.into).exists() and all(
        (root / path).exists() for path in part.makes
    )


def _archive(part: Part, root: Path) -> Path:
    """Return where the file of a part lies until it is in its place."""
    return root / _ARCHIVE_FOLDER / part.file.name


def _come(part: Part, root: Path) -> int:
    """Return how many bytes of a part's file an earlier run has fetched."""
    archive = _archive(part, root)
    if archive.exists():
        return archive.stat().st_size
    return PartialFile(archive).size()


def _fetch_missing(source: BenchmarkSource, root: Path, progress: Progress) -> tuple[str, ...]:
    """Fetch and unpack the parts that are missing; return the names of their files.

    Several benchmarks share a folder and photos: one process at a time works in it.
    """
    if not any(_archive(part, root).exists() or not _is_there(part, root) for part in source.parts):
        return ()  # the folder may be one that this user cannot write
    fetched = []
    with _alone(root, progress):
        for part in source.parts:
            if not _is_there(part, root):
                _fetch(source, part, root, progress)
                fetched.append(part.file.name)
            _archive(part, root).unlink(missing_ok=True)  # or a kill left it behind
    return tuple(fetched)


@contextmanager
def _alone(root: Path, progress: Progress) -> Iterator[None]:
    """Wait until no other process works in the folder.

    Raises:
        DataError: it cannot be written; any OSError within is taken for that.
    """
    folder = root / _ARCHIVE_FOLDER
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            progress.message(f"waiting for another sseg download into {printable(root, None)}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"Cannot read or write {printable(error.filename or folder, None)}: "
            f"{(error.strerror or str(error)).lower()}.",
            "Make room there, or choose another folder with --root DIR.",
        ) from error


def _fetch(source: BenchmarkSource, part: Part, root: Path, progress: Progress) -> None:
    archive, into = _archive(part, root), root / part.into
    fetch_file(part.file, archive, progress)
    _record(source, part, root)
    if archive.name.endswith(_ARCHIVES):
        unpack(archive, into, progress, members=part.members)
    else:
        into.mkdir(parents=True, exist_ok=True)
        archive.replace(into / archive.name)
    missing = [path for path in part.makes if not (root / path).exists()]
    if missing:
        raise DataError(
            f"{printable(archive.name)} does not hold {missing[0]}: its publisher has changed it.",
            f"Unpack {printable(archive, None)} yourself, or fetch an older copy.",
        )


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


def _checked(
    name: str,
    expected: int,
    source: BenchmarkSource,
    root: Path,
    *,
    store: ArtifactStore,
    progress: Progress,
) -> int:
    """Return how many images a benchmark has; it is opened as `sseg eval` does.

    Raises:
        DataError: it cannot be read, or images are missing.
    """
    try:
        config = EvalConfig(benchmark=name, root=str(root))
        benchmark = open_benchmark(config, store, progress)
        benchmark.image(benchmark.keys[0])
        benchmark.truth(benchmark.keys[0])
        problem, found = None, len(benchmark.keys)
    except DataError as error:
        problem, found = error, 0
    if found != expected:
        folders = ", ".join(path for part in source.parts for path in part.makes)
        raise DataError(
            problem.message
            if problem
            else f"{name} in {printable(root, None)} has {found:,} images instead of {expected:,}.",
            f"Remove what is not whole ({folders}) from {printable(root, None)}, and run the same "
            "command again.",
        ) from problem
    return found


def _state(part: Part, root: Path) -> str:
    if _is_there(part, root):
        return "is there"
    size = "size unknown" if part.file.bytes is None else size_text(part.file.bytes)
    come = _come(part, root)
    return f"{size}, {size_text(come)} of it are there" if come else size
