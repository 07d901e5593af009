"""A published artifact: its folder, and the manifest that says what it is and holds.

The manifest is written last, so its presence means that the artifact is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sseg_core.errors import ArtifactError

SCHEMA = 1
"""Version of the manifest format; a newer one is refused."""

Kind = Literal[
    "pairs", "masks", "checkpoint", "labels", "benchmark", "scores", "predictions", "export"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
        return digest_of(self.model_dump(mode="json", by_alias=True, exclude={"created"}))


HOW_TO_MAKE: Mapping[str, str] = {
    "pairs": "Make one with: sseg download toyworld",
    "masks": "Make one with: sseg pseudomask",
    "labels": "Make some with: sseg selftrain --benchmark NAME",
    "checkpoint": "Train one with: sseg train, or see it all in minutes with: sseg demo",
    "export": "Make one with: sseg export",
}


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
        if entry is None or not is_safe(relative):
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
        if sha256_of(path) != self.manifest.files[relative].sha256:
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


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest in `folder`.

    Raises:
        ArtifactError: no manifest, a malformed one, or one of a newer schema.
    """
    try:
        values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{folder} is not an artifact: it holds no manifest.json.",
            "sseg artifacts lists the ones there are.",
        ) from error
    except ValueError as error:
        raise ArtifactError(f"The manifest of {folder} is not valid JSON.") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise ArtifactError(
            f"{folder} has schema {schema}, but this sseg reads up to {SCHEMA}.",
            "Install a newer sseg.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"The manifest of {folder} is malformed at {field!r}.") from error


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_artifact(path: Path) -> Artifact:
    """Read the artifact in the folder `path`; raises what `read_manifest` does."""
    return Artifact(path, read_manifest(path))


def is_safe(relative: str) -> bool:
    """Tell whether a relative path stays inside its folder."""
    parts = PurePosixPath(relative).parts
    return bool(parts) and not relative.startswith("/") and ".." not in parts


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
