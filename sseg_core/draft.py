"""An artifact in the making: a working folder that becomes a version by one rename.

KIND/NAME/.work-HASH/artifact/   becomes vN
KIND/NAME/.work-HASH/scratch/    step checkpoints and the like; never published
KIND/NAME/.work-HASH/done/       a note per finished file, so that a rerun skips it

A note is written beside its place and renamed, so that a kill never leaves half of one, and any
number of processes may write notes at once (see `shared_draft.py`).
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
from uuid import uuid4

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
        self._token = uuid4().hex[:8]
        self.path = folder / "artifact"
        self.scratch = folder / "scratch"
        self.path.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, FileEntry] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        """Files that were finished, by an interrupted run too, with what was noted of them."""
        self.refresh()

    def partial(self, relative: str) -> Path:
        """Return the path to write a file under, until `commit` gives it its name."""
        if not is_safe(relative):
            raise ArtifactError(f"{relative!r} is not a safe file name.")
        # Of this process alone: on a shared store an equal number may run on another machine.
        path = self.path / f"{relative}.{self._token}-{os.getpid()}.partial"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, relative: str, info: Mapping[str, Any] | None = None) -> None:
        """Give `partial(relative)` its final name and note it, with `info`, as finished."""
        partial = self.partial(relative)
        entry = FileEntry(sha256=sha256_of(partial), bytes=partial.stat().st_size)
        partial.replace(self.path / relative)
        self._write_note(relative, entry, dict(info or {}))

    def sha256(self, relative: str) -> str:
        """Return the digest of a file that is finished."""
        return self._entries[relative].sha256

    def note(self, relative: str, info: Mapping[str, Any]) -> None:
        """Note a file as finished that is kept elsewhere and is no part of the artifact."""
        self._write_note(relative, None, dict(info))

    def refresh(self) -> None:
        """Take up the notes that other processes have written since."""
        for relative in noted(self._folder):
            if relative not in self.finished:
                self.look(relative)

    def look(self, relative: str) -> bool:
        """Tell whether a file is finished, by its own note: another process may have written it."""
        note = read_note(self._folder, relative)
        if note is None:
            return False
        entry, self.finished[relative] = note
        if entry is not None:
            self._entries[relative] = entry
        return True

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
                sseg_version=program_version(),
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

    def discard(self) -> None:
        """Remove the working folder: what it held is done with."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_note(self, relative: str, entry: FileEntry | None, info: dict[str, Any]) -> None:
        note = {"entry": None if entry is None else entry.model_dump(), "info": info}
        path = self._folder / "done" / f"{relative}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{self._token}-{os.getpid()}.partial")
        partial.write_text(json.dumps(note), encoding="utf-8")
        partial.replace(path)
        if entry is not None:
            self._entries[relative] = entry
        self.finished[relative] = info


def noted(folder: Path) -> list[str]:
    """Return the names of the files that have a note in a working folder, sorted."""
    done = folder / "done"
    try:
        notes = [path.relative_to(done).as_posix() for path in done.rglob("*.json")]
    except FileNotFoundError:  # another process has published, and cleans up
        return []
    return sorted(note.removesuffix(".json") for note in notes)


def read_note(folder: Path, relative: str) -> tuple[FileEntry | None, dict[str, Any]] | None:
    """Return the entry of a finished file, None where it is kept elsewhere, and what was noted.

    Returns None where it is to be made (again): without a note, or with one of a file that has
    gone or has another size.
    """
    try:
        note = json.loads((folder / "done" / f"{relative}.json").read_text(encoding="utf-8"))
        entry = note["entry"] and FileEntry.model_validate(note["entry"])
        if entry and (folder / "artifact" / relative).stat().st_size != entry.bytes:
            return None
        return entry, note["info"]
    except (OSError, ValueError, KeyError):
        return None


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


def program_version() -> str:
    """Return the installed version of sseg."""
    try:
        return version("sseg")
    except PackageNotFoundError:
        return "0+unknown"
