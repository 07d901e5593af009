"""Shards that earlier commands made: parts put together, and runs whose failures are retried."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.plan import DownloadPlan
from sseg_core.data.fetch.tally import Tally
from sseg_core.draft import Draft
from sseg_core.errors import ArtifactError
from sseg_core.stages.pairs_packer import identity_of, shard_name
from sseg_core.tracking import Progress

SHARD_TABLE = "shards.json"
"""The file of a pairs artifact that tells what became of the samples of each shard."""

_PART = re.compile(r"(.+)-([0-9]+)of([0-9]+)")


@dataclass(frozen=True)
class PartsPacker:
    """Puts the parts of a source together; see `PairsPacker`."""

    name: str
    parents: tuple[Artifact, ...]

    @property
    def identity(self) -> Mapping[str, str]:
        """The digests of the parts are in the lineage."""
        return {}

    def plan(self, config: DownloadConfig, folder: Path, /) -> DownloadPlan:
        """Return what there is; shards in the same file system are linked and take no room."""
        notes = [note for part in self.parents for note in shard_notes(part).values()]
        return DownloadPlan(
            config.source,
            f"{len(self.parents)} parts of {self.name}",
            "the store",
            folder,
            images=Tally.of(map(Tally.from_note, notes)).images,
        )

    def pack(self, _: DownloadConfig, draft: Draft, progress: Progress, /) -> tuple[str, ...]:
        """Take the shards of all parts; return their names."""
        sizes = [entry.bytes for part in self.parents for entry in part.manifest.files.values()]
        progress.start("merge", sum(sizes) // 10**6, "MB")
        for part in self.parents:
            take_shards(part, draft, progress)
        return tuple(sorted(name for part in self.parents for name in shard_notes(part)))


def open_parts(argument: str, store: ArtifactStore) -> PartsPacker:
    """Return what puts parts together.

    Args:
        argument: NAME, for all artifacts NAME-1of4, NAME-2of4, ...; or references with commas.
        store: that holds them.

    Raises:
        ArtifactError: parts are missing, twice there, or of different commands.
    """
    if "," in argument:
        found = [store.find(reference.strip(), "pairs") for reference in argument.split(",")]
        name = found[0].manifest.name
    else:
        names = {artifact.manifest.name for artifact in store.artifacts("pairs")}
        matches = {own: match for own in names if (match := _PART.fullmatch(own))}
        found = [store.find(own, "pairs") for own in sorted(matches) if matches[own][1] == argument]
        name = argument
    if not found:
        raise ArtifactError(
            f"There are no parts of {argument!r} in {store.root}.",
            f"Make them with --part 1/4, --part 2/4, ...; they are called {argument}-1of4, ...",
        )
    _check_parts(found)
    if match := _PART.fullmatch(name):
        name = match[1]
    return PartsPacker(name, tuple(found))


def take_up(
    draft: Draft, store: ArtifactStore, name: str, identity: Mapping[str, Any], progress: Progress
) -> None:
    """Take the shards that the same command published before, where the draft has none.

    Raises:
        ArtifactError: there are no such shards, neither in the draft nor published.
    """
    published = [
        artifact
        for artifact in store.artifacts("pairs")
        if artifact.manifest.name == name and identity_of(artifact.manifest.config) == identity
    ]
    if published:
        take_shards(published[-1], draft, progress)
    elif not draft.finished:
        raise ArtifactError(
            f"There is no earlier run of this command that was to make {name}.",
            "Leave --retry-failed out, or give the same options as then.",
        )


def take_shards(artifact: Artifact, draft: Draft, progress: Progress) -> None:
    """Link, or else copy, the shards of an artifact that the draft does not have, with tables.

    Raises:
        ArtifactError: a file was changed.
    """
    files = artifact.manifest.files
    for shard, note in shard_notes(artifact).items():
        if shard in draft.finished:
            continue
        # The shard last: its note says that all of it is there.
        stem = shard.removesuffix(".tar")
        others = [file for file in files if file.startswith(f"{stem}.") and file != shard]
        for file in (*others, shard):
            _link(artifact.path / file, draft.partial(file))
            draft.commit(file, note if file == shard else None)
            if draft.sha256(file) != files[file].sha256:
                draft.discard()
                raise ArtifactError(
                    f"{artifact.path / file} was changed since it was made.",
                    f"Make {artifact.reference} again.",
                )
            progress.advance(files[file].bytes // 10**6)


def shard_notes(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Return what became of the samples of each shard, by its name.

    Raises:
        ArtifactError: the artifact does not tell.
    """
    try:
        notes: dict[str, dict[str, Any]] = json.loads(
            (artifact.path / SHARD_TABLE).read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{artifact.reference} has no readable {SHARD_TABLE}.", "Make it again: sseg download"
        ) from error
    return notes


def _check_parts(parts: Sequence[Artifact]) -> None:
    first = parts[0]
    numbers: dict[str, Artifact] = {}
    for part in parts:
        number, _, count = str(part.manifest.config.get("part") or "1/1").partition("/")
        if number in numbers:
            raise ArtifactError(
                f"{part.reference} and {numbers[number].reference} are both part {number}.",
                "Name the parts that belong together: parts:NAME-1of2,NAME-2of2",
            )
        numbers[number] = part
        if _without_part(part) != _without_part(first):
            raise ArtifactError(
                f"{part.reference} and {first.reference} are parts of different sources.",
                "Make all parts with the same source and options.",
            )
    missing = sorted(set(map(str, range(1, int(count) + 1))) - numbers.keys(), key=int)
    if missing:
        raise ArtifactError(
            f"Of {count} parts, {', '.join(missing)} is missing."
            if len(missing) == 1
            else f"Of {count} parts, {', '.join(missing)} are missing.",
            f"Make it with --part {missing[0]}/{count}, or copy it into this store.",
        )
    shards = sorted(shard for part in parts for shard in shard_notes(part))
    if shards != [shard_name(number) for number in range(len(shards))]:
        raise ArtifactError("The parts do not make a whole.", "Make them again.")


def _without_part(artifact: Artifact) -> dict[str, Any]:
    config = identity_of(artifact.manifest.config)
    _, _, count = str(config["part"]).partition("/")
    return {**config, "part": count}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # of another file system, or one without links
        shutil.copyfile(source, target)
