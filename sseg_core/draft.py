"""An artifact in the making: a working folder that becomes a version by one rename.

KIND/NAME/.work-HASH/artifact/       becomes vN
KIND/NAME/.work-HASH/scratch/        step checkpoints and the like; never published
KIND/NAME/.work-HASH/progress.jsonl  one line per finished file, so that a rerun skips it
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sseg_core.errors import ArtifactError
from sseg_core.manifest import (
    SCHEMA,
    Artifact,
    FileEntry,
    Kind,
    Manifest,
    is_safe,
    sha256_of,
)

_VERSION = re.compile(r"v([1-9][0-9]*)")


class Draft:
    """An artifact in the making; the module docstring draws its folders."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind,
        name: str,
        config: dict[str, Any],
        parents: Sequence[Artifact],
    ) -> None:
        self._folder = folder
        self._kind: Kind = kind
        self._name = name
        self._config = config
        self._parents = tuple(parent.as_parent() for parent in parents)
        self.path = folder / "artifact"
        self.scratch = folder / "scratch"
        self.path.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, FileEntry] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        """Files that an earlier, interrupted run finished, with what it noted of them."""
        self._read_progress()

    def partial(self, relative: str) -> Path:
        """Return the path to write a file under, until `commit` gives it its name."""
        if not is_safe(relative):
            raise ArtifactError(f"{relative!r} is not a safe file name.")
        path = self.path / f"{relative}.partial"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, relative: str, info: Mapping[str, Any] | None = None) -> None:
        """Give `partial(relative)` its final name and note it, with `info`, as finished."""
        partial = self.partial(relative)
        entry = FileEntry(sha256=sha256_of(partial), bytes=partial.stat().st_size)
        partial.replace(self.path / relative)
        line = {"file": relative, "entry": entry.model_dump(), "info": dict(info or {})}
        with (self._folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._entries[relative] = entry
        self.finished[relative] = dict(info or {})

    def publish(self, stats: Mapping[str, Any], parents: Sequence[Artifact] = ()) -> Artifact:
        """Write the manifest, rename to the next free version, and return the artifact.

        Args:
            stats: what the stage measured, as JSON values.
            parents: further ones, that came to be while the draft was open.
        """
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()
        files = {}
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = path.relative_to(self.path).as_posix()
            if relative == "manifest.json":
                continue
            files[relative] = self._entries.get(relative) or FileEntry(
                sha256=sha256_of(path), bytes=path.stat().st_size
            )
        home = self._folder.parent
        while True:
            number = 1 + max(versions_in(home), default=0)
            manifest = Manifest(
                schema_version=SCHEMA,
                kind=self._kind,
                name=self._name,
                version=number,
                created=datetime.now(UTC).isoformat(timespec="microseconds"),
                sseg_version=_program_version(),
                config=self._config,
                parents=(*self._parents, *(parent.as_parent() for parent in parents)),
                files=files,
                stats=dict(stats),
            )
            _write_synced(self.path / "manifest.json", manifest.model_dump_json(by_alias=True))
            target = home / f"v{number}"
            try:
                self.path.rename(target)
            except OSError:
                if not target.exists():
                    raise
                continue  # another writer took this number between the look and the rename
            shutil.rmtree(self._folder, ignore_errors=True)
            return Artifact(target, manifest)

    def _read_progress(self) -> None:
        log = self._folder / "progress.jsonl"
        if not log.exists():
            return
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                entry = FileEntry.model_validate(record["entry"])
            except (ValueError, KeyError):
                continue  # the run was killed while it wrote this line
            path = self.path / record["file"]
            if path.is_file() and path.stat().st_size == entry.bytes:
                self._entries[record["file"]] = entry
                self.finished[record["file"]] = record["info"]


def versions_in(home: Path) -> list[int]:
    """Return the version numbers in the folder of a name."""
    if not home.is_dir():
        return []
    matches = (_VERSION.fullmatch(path.name) for path in home.iterdir())
    return [int(match[1]) for match in matches if match]


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _program_version() -> str:
    try:
        return version("sseg")
    except PackageNotFoundError:
        return "0+unknown"
