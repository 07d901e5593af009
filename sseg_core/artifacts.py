"""Versioned artifacts: what a stage leaves behind and the next one takes up.

The store is a folder that holds `KIND/NAME/vN/`, N counting up from 1. An artifact is written in
a working folder beside its versions and appears under its final name by one rename, so a
`manifest.json` in a version folder means that everything it lists is complete:

    KIND/NAME/.work-HASH/artifact/       becomes vN
    KIND/NAME/.work-HASH/scratch/        step checkpoints and the like; never published
    KIND/NAME/.work-HASH/progress.jsonl  one line per finished file, so that a rerun skips it

HASH names the command (kind, name, configuration, parents): the same command finds its own
working folder again, another command gets another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sseg_core.errors import ArtifactError, did_you_mean

SCHEMA = 1
"""Version of the manifest format; a newer one is refused."""

Kind = Literal["pairs", "masks", "checkpoint", "labels", "scores", "predictions", "export"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HOW_TO_MAKE: Mapping[str, str] = {
    "pairs": "Make one with: sseg download toyworld",
    "masks": "Make one with: sseg pseudomask",
    "checkpoint": "Train one with: sseg train, or see it all in minutes with: sseg demo",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v([1-9][0-9]*)")


class FileEntry(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    bytes: int


class Parent(BaseModel):
    """A reference to the artifact that another one was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind
    name: str
    version: int
    digest: str


class Manifest(BaseModel):
    """The contents of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    schema_version: int = Field(alias="schema")
    kind: Kind
    name: str
    version: int
    created: str
    sseg_version: str
    config: dict[str, Any]
    parents: tuple[Parent, ...]
    files: dict[str, FileEntry]
    stats: dict[str, Any]

    def digest(self) -> str:
        """Return the SHA-256 of the canonical manifest less `created`."""
        return _digest(self.model_dump(mode="json", by_alias=True, exclude={"created"}))


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """`NAME:vN`."""
        return f"{self.manifest.name}:v{self.manifest.version}"

    def as_parent(self) -> Parent:
        """Return the entry that a child's manifest keeps of this artifact."""
        m = self.manifest
        return Parent(kind=m.kind, name=m.name, version=m.version, digest=m.digest())

    def file(self, relative: str) -> Path:
        """Return the path of a file of this artifact, its presence and size checked.

        Raises:
            ArtifactError: the file is not listed, is gone, or has another size.
        """
        entry = self.manifest.files.get(relative)
        path = self.path / relative
        if entry is None or not _is_safe(relative):
            raise ArtifactError(f"{self.reference} holds no file {relative!r}.")
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise ArtifactError(
                f"{relative} of {self.reference} is missing or was changed.",
                HOW_TO_MAKE.get(self.manifest.kind, ""),
            )
        return path

    def files(self, suffix: str) -> list[Path]:
        """Return the paths of all files whose name ends in `suffix`, sorted."""
        return [self.file(name) for name in sorted(self.manifest.files) if name.endswith(suffix)]

    def verified_file(self, relative: str) -> Path:
        """Like `file`, with the content checked against its SHA-256."""
        path = self.file(relative)
        if _sha256(path) != self.manifest.files[relative].sha256:
            raise ArtifactError(
                f"{relative} of {self.reference} does not match its hash: it was changed.",
                HOW_TO_MAKE.get(self.manifest.kind, ""),
            )
        return path

    def problems(self) -> list[str]:
        """Return one sentence per file that is missing or changed, by hash."""
        found = []
        for name in sorted(self.manifest.files):
            try:
                self.verified_file(name)
            except ArtifactError as error:
                found.append(error.message)
        return found


class Draft:
    """An artifact in the making; see the module docstring for its folders."""

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
        if not _is_safe(relative):
            raise ArtifactError(f"{relative!r} is not a safe file name.")
        path = self.path / f"{relative}.partial"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, relative: str, info: Mapping[str, Any] | None = None) -> None:
        """Give `partial(relative)` its final name and note it, with `info`, as finished."""
        partial = self.partial(relative)
        entry = FileEntry(sha256=_sha256(partial), bytes=partial.stat().st_size)
        partial.replace(self.path / relative)
        line = {"file": relative, "entry": entry.model_dump(), "info": dict(info or {})}
        with (self._folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._entries[relative] = entry
        self.finished[relative] = dict(info or {})

    def publish(self, stats: Mapping[str, Any]) -> Artifact:
        """Write the manifest, rename to the next free version, and return the artifact."""
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()
        files = {}
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = path.relative_to(self.path).as_posix()
            if relative == "manifest.json":
                continue
            files[relative] = self._entries.get(relative) or FileEntry(
                sha256=_sha256(path), bytes=path.stat().st_size
            )
        home = self._folder.parent
        while True:
            number = 1 + max(_versions(home), default=0)
            manifest = Manifest(
                schema_version=SCHEMA,
                kind=self._kind,
                name=self._name,
                version=number,
                created=datetime.now(UTC).isoformat(timespec="microseconds"),
                sseg_version=_program_version(),
                config=self._config,
                parents=self._parents,
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


class ArtifactStore:
    """The folder of all artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> ArtifactStore:
        """Return the store at `$SSEG_STORE`, else at `./sseg-artifacts`."""
        return cls(Path(os.environ.get("SSEG_STORE") or "sseg-artifacts"))

    def artifacts(self, kind: Kind | None = None) -> list[Artifact]:
        """Return all artifacts (of one kind), the oldest first. Unreadable ones are left out."""
        found = []
        for a_kind in KINDS if kind is None else (kind,):
            for path in self.root.glob(f"{a_kind}/*/v*/manifest.json"):
                try:
                    found.append(read_artifact(path.parent))
                except ArtifactError:
                    continue
        return sorted(found, key=lambda artifact: artifact.manifest.created)

    def find(self, reference: str | None, kind: Kind) -> Artifact:
        """Return the artifact that `reference` names, checked to be of `kind`.

        Args:
            reference: `NAME` (its newest version), `NAME:vN`, a path, or None for the newest
                artifact of the kind.
            kind: what the caller can use.

        Raises:
            ArtifactError: there is none, or it is of another kind.
        """
        if reference is None:
            known = self.artifacts(kind)
            if not known:
                raise ArtifactError(
                    f"There is no {kind} in {self.root}.", HOW_TO_MAKE.get(kind, "")
                )
            return known[-1]
        if "/" in reference or os.sep in reference or reference.startswith("."):
            artifact = read_artifact(Path(reference))
        else:
            artifact = self._find_by_name(reference, kind)
        if artifact.manifest.kind != kind:
            raise ArtifactError(
                f"{reference} is a {artifact.manifest.kind} artifact, but a {kind} is needed.",
                HOW_TO_MAKE.get(kind, ""),
            )
        return artifact

    def parent(self, child: Artifact, kind: Kind) -> Artifact:
        """Return the parent of `kind` that `child` was made from, checked to be unchanged.

        Raises:
            ArtifactError: the child has no such parent, or it is gone, or it was changed.
        """
        for parent in child.manifest.parents:
            if parent.kind == kind:
                break
        else:
            raise ArtifactError(f"{child.reference} was not made from a {kind} artifact.")
        home = ArtifactStore(child.path.parents[2])
        path = home.root / kind / parent.name / f"v{parent.version}"
        reference = f"{parent.name}:v{parent.version}"
        if not (path / "manifest.json").exists():
            raise ArtifactError(
                f"{child.reference} was made from the {kind} {reference}, which is gone.",
                HOW_TO_MAKE.get(kind, ""),
            )
        artifact = read_artifact(path)
        if artifact.manifest.digest() != parent.digest:
            raise ArtifactError(
                f"The {kind} {reference} is not the one that {child.reference} was made from.",
                f"Make {child.manifest.name} again from it.",
            )
        return artifact

    @contextmanager
    def draft(
        self, kind: Kind, name: str, config: dict[str, Any], parents: Sequence[Artifact] = ()
    ) -> Iterator[Draft]:
        """Open the working folder of an artifact; the same command finds its own again.

        Raises:
            ArtifactError: the name is unusable, or the same command is running already.
        """
        check_name(name)
        command = [kind, name, config, [parent.as_parent().model_dump() for parent in parents]]
        folder = self.root / kind / name / f".work-{_digest(command)[:12]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(
                f"The same command is already writing {kind}/{name}.",
                "Wait for it to end, or give this one another --name.",
            ) from error
        try:
            yield Draft(folder, kind=kind, name=name, config=config, parents=parents)
        finally:
            lock.release()
            if not folder.exists():
                Path(f"{folder}.lock").unlink(missing_ok=True)

    def _find_by_name(self, reference: str, kind: Kind) -> Artifact:
        name, _, number = reference.partition(":")
        if number and not _VERSION.fullmatch(number):
            raise ArtifactError(
                f"{reference!r} is not a reference.", "Write NAME, NAME:v2, or a path."
            )
        # The wanted kind first; a hit in another kind lets the caller say what was found.
        for a_kind in (kind, *(other for other in KINDS if other != kind)):
            home = self.root / a_kind / name
            versions = _versions(home) if _NAME.fullmatch(name) else []
            if versions and not number:
                return read_artifact(home / f"v{max(versions)}")
            if number and int(number[1:]) in versions:
                return read_artifact(home / number)
        names = {a.manifest.name for a in self.artifacts(kind)}
        hint = did_you_mean(name, names) if names else HOW_TO_MAKE.get(kind, "")
        raise ArtifactError(f"There is no {kind} {reference!r} in {self.root}.", hint)


def read_artifact(path: Path) -> Artifact:
    """Read the artifact in the folder `path`.

    Raises:
        ArtifactError: no manifest, a malformed one, or one of a newer schema.
    """
    try:
        values = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path} is not an artifact: it holds no manifest.json.",
            "sseg artifacts lists the ones there are.",
        ) from error
    except ValueError as error:
        raise ArtifactError(f"The manifest of {path} is not valid JSON.") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema}, but this sseg reads up to {SCHEMA}.",
            "Install a newer sseg.",
        )
    try:
        return Artifact(path, Manifest.model_validate(values))
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"The manifest of {path} is malformed at {field!r}.") from error


def check_name(name: str) -> None:
    """Raise ArtifactError unless `name` can name an artifact."""
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"{name!r} cannot be the name of an artifact.",
            "Use up to 64 letters, digits, '.', '_' and '-', a letter or digit first.",
        )


def _versions(home: Path) -> list[int]:
    if not home.is_dir():
        return []
    matches = (_VERSION.fullmatch(path.name) for path in home.iterdir())
    return [int(match[1]) for match in matches if match]


def _is_safe(relative: str) -> bool:
    parts = PurePosixPath(relative).parts
    return bool(parts) and not relative.startswith("/") and ".." not in parts


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
