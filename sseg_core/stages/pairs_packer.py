"""What all sources of captioned images have in common: shards by number, in parts, resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sseg_core.artifacts import Artifact
from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.plan import DownloadPlan
from sseg_core.draft import Draft
from sseg_core.tracking import Progress

# How fast images are fetched, and when to give up; the last two decide little of what comes.
_PACE = frozenset({"connections", "per_host", "processes", "timeout_s", "attempts"})


class PairsPacker(Protocol):
    """A source that can be packed into shards."""

    @property
    def name(self) -> str:
        """Of the artifact, where the user gives none."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the source is known by beside the configuration, such as digests of its files."""

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """Artifacts that it is made from."""

    def plan(self, config: DownloadConfig, folder: Path, /) -> DownloadPlan:
        """Return what packing takes, all of it, into a folder."""

    def pack(self, config: DownloadConfig, draft: Draft, progress: Progress, /) -> tuple[str, ...]:
        """Write the shards that are missing, each noted with its `Tally`; return all names.

        Raises:
            DataError: too many images are unusable, or a shard cannot be written.
        """


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a command is known by: its configuration, less what changes nothing it makes.

    Args:
        config: as JSON values, perhaps with the digests of the source's files.
    """
    fetch = {name: value for name, value in config["fetch"].items() if name not in _PACE}
    return {**config, "fetch": fetch, "min_success": None}


def shard_name(number: int) -> str:
    """Return the name of a shard, counted from 0."""
    return f"{number:06d}.tar"


def is_ours(number: int, config: DownloadConfig) -> bool:
    """Tell whether a shard belongs to the part that `config` asks for."""
    part, count = config.part_of
    return number % count == part - 1


def parts_of(length: int, config: DownloadConfig) -> dict[str, range]:
    """Return the positions of the samples of each shard that `config` asks for, by its name."""
    starts = range(0, length, config.shard_size)
    return {
        shard_name(number): range(start, min(start + config.shard_size, length))
        for number, start in enumerate(starts)
        if is_ours(number, config)
    }
