"""Versioned artifacts: what a stage leaves behind and the next one takes up.

The store is a folder that holds `KIND/NAME/vN/`, N counting up from 1. An artifact is written in
a working folder beside its versions (see `draft.py`) and appears under its final name by one
rename. The working folder is named after the command (kind, name, configuration, parents): the
same command finds its own again, another command gets another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sseg_core.draft import Draft, noted, read_note, versions_in
from sseg_core.errors import ArtifactError, did_you_mean
from sseg_core.manifest import (
    HOW_TO_MAKE,
    KINDS,
    Artifact,
    Kind,
    digest_of,
    read_artifact,
)
from sseg_core.shared_draft import SharedDraft

__all__ = ["Artifact", "ArtifactStore", "Draft", "SharedDraft", "check_name", "read_artifact"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v([1-9][0-9]*)")


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

    def find(self, reference: str | None, kind: Kind, other: Kind | None = None) -> Artifact:
        """Return the artifact that `reference` names, checked to be of `kind`.

        Args:
            reference: `NAME` (its newest version), `NAME:vN`, a path, or None for the newest
                artifact of the kind.
            kind: what the caller can use.
            other: what it can use as well; a name that is none of `kind` is looked up there.

        Raises:
            ArtifactError: there is none, or it is of another kind.
        """
        if reference is None:
            known = self.artifacts(kind)
            if not known:
                raise ArtifactError(
                    f"There is no {kind} artifact in {self.root}.", HOW_TO_MAKE.get(kind, "")
                )
            return known[-1]
        if "/" in reference or os.sep in reference or reference.startswith("."):
            artifact = read_artifact(Path(reference))
        else:
            artifact = self._find_by_name(reference, (kind,) if other is None else (kind, other))
        if artifact.manifest.kind not in {kind, other}:
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
            source = child.manifest.config.get(kind)
            raise ArtifactError(
                f"{child.reference} was made from {source}, not from a {kind} artifact."
                if isinstance(source, str)
                else f"{child.reference} was not made from a {kind} artifact.",
                HOW_TO_MAKE.get(kind, ""),
            )
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
        self,
        kind: Kind,
        name: str,
        config: dict[str, Any],
        parents: Sequence[Artifact] = (),
        *,
        identity: dict[str, Any] | None = None,
    ) -> Iterator[Draft]:
        """Open the working folder of an artifact; the same command finds its own again.

        Args:
            kind: of the artifact.
            name: likewise.
            config: as its manifest holds it.
            parents: what it is made from.
            identity: what the command is known by, as JSON values, where that is not `config`:
                less what does not change its work.

        Raises:
            ArtifactError: the name is unusable, the store cannot be written, or the same command
                is running already.
        """
        folder = self._work_folder(kind, name, config if identity is None else identity, parents)
        self._make_home(folder.parent)
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

    def shared_draft(
        self,
        kind: Kind,
        name: str,
        config: dict[str, Any],
        parents: Sequence[Artifact] = (),
        *,
        identity: dict[str, Any] | None = None,
    ) -> SharedDraft:
        """Open the working folder of an artifact that several processes may make together.

        Args:
            kind: of the artifact.
            name: likewise.
            config: as its manifest holds it.
            parents: what it is made from.
            identity: what the command is known by, as JSON values, where that is not `config`
                alone: what it found in files of the user, less what does not change its work.

        Raises:
            ArtifactError: the name is unusable, or the store cannot be written.
        """
        folder = self._work_folder(kind, name, config if identity is None else identity, parents)
        self._make_home(folder.parent)
        return SharedDraft(folder, kind=kind, name=name, config=config, parents=parents)

    def finished(
        self, kind: Kind, name: str, config: dict[str, Any], parents: Sequence[Artifact] = ()
    ) -> dict[str, dict[str, Any]]:
        """Return what `Draft.finished` of this command would hold, and write nothing."""
        folder = self._work_folder(kind, name, config, parents)
        notes = {relative: read_note(folder, relative) for relative in noted(folder)}
        return {relative: note[1] for relative, note in notes.items() if note is not None}

    def _make_home(self, home: Path) -> None:
        try:
            home.mkdir(parents=True, exist_ok=True)
            if os.access(home, os.W_OK):
                return
            reason = "it is read-only"
        except OSError as error:
            reason = (error.strerror or "unknown error").lower()
        raise ArtifactError(
            f"The store {self.root} cannot be written: {reason}.",
            "Choose another place with --store, or mend its permissions.",
        )

    def _work_folder(
        self, kind: Kind, name: str, config: dict[str, Any], parents: Sequence[Artifact]
    ) -> Path:
        check_name(name)
        command = [kind, name, config, [parent.as_parent().model_dump() for parent in parents]]
        return self.root / kind / name / f".work-{digest_of(command)[:12]}"

    def _find_by_name(self, reference: str, wanted: Sequence[Kind]) -> Artifact:
        name, _, number = reference.partition(":")
        if number and not _VERSION.fullmatch(number):
            raise ArtifactError(
                f"{reference!r} is not a reference.", "Write NAME, NAME:v2, or a path."
            )
        # The wanted kinds first; a hit in another kind lets the caller say what was found.
        for a_kind in (*wanted, *(other for other in KINDS if other not in wanted)):
            home = self.root / a_kind / name
            versions = versions_in(home) if _NAME.fullmatch(name) else []
            if versions and not number:
                return read_artifact(home / f"v{max(versions)}")
            if number and int(number[1:]) in versions:
                return read_artifact(home / number)
        kind = wanted[0]
        names = {a.manifest.name for a_kind in wanted for a in self.artifacts(a_kind)}
        hint = did_you_mean(name, names) if names else HOW_TO_MAKE.get(kind, "")
        raise ArtifactError(f"There is no {kind} artifact {reference!r} in {self.root}.", hint)


def check_name(name: str) -> None:
    """Raise ArtifactError unless `name` can name an artifact."""
    if not _NAME.fullmatch(name):
        raise ArtifactError(
            f"{name!r} cannot be the name of an artifact.",
            "Use up to 64 letters, digits, '.', '_' and '-', a letter or digit first.",
        )
