"""Shards of a webdataset of the Hugging Face hub: one of ours for each of theirs.

While one is packed the next is on its way, so that no more than two of theirs lie on the disk.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from sseg_core.artifacts import Artifact
from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.foreign_shard import FittingThreads
from sseg_core.data.fetch.hub_dataset import HubDataset, HubShard, cached_shard, open_dataset
from sseg_core.data.fetch.hub_shards import Arrivals
from sseg_core.data.fetch.plan import FEWER_OR_SMALLER, DownloadPlan, expected_bytes
from sseg_core.data.fetch.tally import Skipped, Tally
from sseg_core.data.keys import safe_key
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.data.sources import PAIRS
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.stages.pairs_packer import is_ours, shard_name
from sseg_core.tracking import Progress

_MENDS = {
    "": "Choose other shards with --set hub.pattern=PATTERN, or another webdataset",
    "truncated shard": "Fetch another revision with --set hub.revision=COMMIT",
}


@dataclass(frozen=True)
class HubPacker:
    """Packs a webdataset of the hub; see `PairsPacker`.

    Attributes:
        name: of the artifact, where the user gives none.
        dataset: the tar files, in the order of ours.
        contents: what it is, in a few words.
        licence: likewise; may be empty.
        terms: address of the page with the terms.
        images: about how many; None if unknown.
    """

    name: str
    dataset: HubDataset
    contents: str
    licence: str
    terms: str
    images: int | None

    @property
    def identity(self) -> Mapping[str, str]:
        """The commit, and the digest of the paths: with them the bytes are fixed."""
        paths = "".join(f"{shard.path}\n" for shard in self.dataset.shards)
        return {
            "hub_repository": self.dataset.repository,
            "hub_commit": self.dataset.commit,
            "hub_shards_sha256": hashlib.sha256(paths.encode()).hexdigest(),
        }

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """None: this is where data comes in."""
        return ()

    def plan(self, config: DownloadConfig, folder: Path, /) -> DownloadPlan:
        """Return what fetching and packing takes; with a limit, about."""
        ours = [shard for _, shard in _ours(self.dataset, config).values()]
        all_bytes = sum(shard.bytes for shard in self.dataset.shards)
        fetched = sum(shard.bytes for shard in ours)
        images = self.images and round(self.images * fetched / max(1, all_bytes))
        limit = config.limit
        if limit is not None:
            share = min(1.0, limit / images) if images else 1.0
            fetched = round(fetched * share)
            images = limit if images is None else min(limit, images)
        fetched = max(fetched, max((shard.bytes for shard in ours), default=0))
        packed = None if images is None else expected_bytes(images, config)
        there = [shard for shard in ours if cached_shard(self.dataset, shard)]
        notes = [f"{len(ours):,} of its {len(self.dataset.shards):,} tar files"]
        if there:
            notes.append(f"{len(there):,} of them are in the hub's cache")
        if limit is not None and self.images is None:
            notes.append("fetched until there are enough images: how many a tar file holds "
                         "is not known before")  # fmt: skip
        return DownloadPlan(
            config.source,
            self.contents,
            f"hub: {self.dataset.repository} at {self.dataset.commit[:12]}",
            folder,
            licence=self.licence,
            terms=self.terms,
            images=images,
            download_bytes=fetched,
            disk_bytes=min(fetched, packed or fetched) + _on_the_way(ours),
            less=FEWER_OR_SMALLER,
            notes=tuple(notes),
        )

    def pack(self, config: DownloadConfig, draft: Draft, progress: Progress, /) -> tuple[str, ...]:
        """Fetch and pack what is missing; return the names of all shards."""
        ours = _ours(self.dataset, config)
        shown = _Shown(progress, [shard for _, shard in ours.values()], config.limit)
        there = [name for name in ours if name in draft.finished]
        if there:
            progress.message(f"{len(there)} of {len(ours)} shards are there from an earlier run")
        total, made = Tally(), list[str]()
        with (
            Arrivals(self.dataset, draft.scratch, there) as arrivals,
            FittingThreads(config) as fitting,
        ):
            for name, (number, shard) in ours.items():
                left = None if config.limit is None else config.limit - total.images
                if left is not None and left <= 0:
                    break
                made.append(name)
                shown.begin(shard, total.images)
                if name in draft.finished:
                    total.add(Tally.from_note(draft.finished[name]))
                    continue
                path = arrivals.take(name, shard, shown.waiting)
                if left is None or left > _per_shard(total, made):
                    arrivals.order(_next_missing(ours, name, draft))
                tally = Tally()
                samples = fitting.samples(path, number, shard.path)
                write_tar(draft.partial(name), _members(samples, tally, left, shown))
                draft.commit(name, tally.note())
                arrivals.discard(name)
                total.add(tally)
                self._check(total, config)
        shown.end(total.images)
        self._check(total, config)
        if not total.images:
            raise DataError(
                f"The tar files of {self.dataset.repository} hold no samples.",
                "Choose others with --set hub.pattern=PATTERN.",
            )
        return tuple(made)

    def _check(self, total: Tally, config: DownloadConfig) -> None:
        if seen := total.images + total.skipped.total():
            total.check(seen, config.min_success, _MENDS)


def open_hub(config: DownloadConfig) -> HubPacker:
    """Return what packs a webdataset of the hub.

    Args:
        config: its `source`, `cc3m` and the like or `hf:ORG/NAME`, and its `hub`.

    Raises:
        ConfigError: no repository is named, or `limit` and `part` are both given.
        DataError: it cannot be had, or has no such tar files.
    """
    if config.limit is not None and config.part_of[1] > 1:
        raise ConfigError(
            "--limit and --part do not go together here: how many images a tar file of the hub "
            "holds is known when it has come.",
            "Take fewer of them with --set hub.pattern=PATTERN.",
        )
    pattern, revision = config.hub.pattern, config.hub.revision
    known = next((s for s in PAIRS if s.name == config.source and s.repository), None)
    if known is not None:
        assert known.repository is not None
        dataset = open_dataset(known.repository, pattern=pattern or known.shards, revision=revision)
        images = known.images if pattern is None else None
        return HubPacker(known.name, dataset, known.contents, known.licence, known.terms, images)
    repository = config.source.removeprefix("hf:")
    if not repository:
        raise ConfigError("The source hf: lacks its name.", "For example: hf:pixparse/cc3m-wds")
    dataset = open_dataset(repository, pattern=pattern, revision=revision)
    name = safe_key(repository.rpartition("/")[2])[:56]
    contents = f"the webdataset {printable(repository)}"
    return HubPacker(name, dataset, contents, dataset.licence, dataset.page, None)


def _ours(dataset: HubDataset, config: DownloadConfig) -> dict[str, tuple[int, HubShard]]:
    """Return the number and the source of each shard that `config` asks for, by its name."""
    return {
        shard_name(number): (number, shard)
        for number, shard in enumerate(dataset.shards)
        if is_ours(number, config)
    }


def _on_the_way(shards: Sequence[HubShard]) -> int:
    return sum(sorted((shard.bytes for shard in shards), reverse=True)[:2])


def _per_shard(total: Tally, made: Sequence[str]) -> float:
    """Return how many images a shard gives, as those before the last of `made` did."""
    return total.images / (len(made) - 1) if len(made) > 1 else math.inf


def _next_missing(
    ours: Mapping[str, tuple[int, HubShard]], name: str, draft: Draft
) -> tuple[str, HubShard] | None:
    later = dropwhile(lambda other: other != name, ours)
    missing = (other for other in later if other != name and other not in draft.finished)
    found = next(missing, None)
    return None if found is None else (found, ours[found][1])


class _Shown:
    """Shows how far a command is: in bytes of the source, or in images where they are limited.

    Half of a shard's bytes count when they have come, the other half when they are packed.
    """

    def __init__(self, progress: Progress, shards: Sequence[HubShard], limit: int | None) -> None:
        self._progress = progress
        self._limit = limit
        self._told = 0
        self._before = self._size = self._images = 0
        self._bytes = sum(shard.bytes for shard in shards)
        self._total = -(-self._bytes // 10**6)
        if limit is None:
            progress.start("download", self._total, "MB")
        else:
            progress.start("download", limit, "images")

    def begin(self, shard: HubShard, images: int) -> None:
        """The shards before this one are done, with so many images."""
        self._before += self._size
        self._size = shard.bytes
        self._images = images
        self._tell(self._before, images)

    def end(self, images: int) -> None:
        """All are done."""
        self._tell(self._before + self._size, images)

    def waiting(self, there: int) -> None:
        """So many bytes of the shard have come, and all others are packed."""
        self._tell(self._before + there // 2, self._images, fetched=f"{there // 10**6} MB")

    def packed(self, images: int, read: int) -> None:
        """Of the shard so many images are packed, and about so many bytes read."""
        read = self._before + (self._size + min(read, self._size - 1)) // 2
        self._tell(read, self._images + images)

    def _tell(self, read: int, images: int, **fields: str) -> None:
        if self._limit is None:
            done = self._total if read == self._bytes else min(read // 10**6, self._total - 1)
        else:
            done = images
        step, self._told = done - self._told, done
        if step or fields:
            self._progress.advance(step, images=f"{images:,}", **fields)


def _members(
    samples: Iterator[tuple[Sample | Skipped, int]],
    tally: Tally,
    limit: int | None,
    shown: _Shown,
) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a shard of at most `limit` images, and count them."""
    read = 0
    for item, length in samples:
        tally.add_sample(item)
        read += length
        shown.packed(tally.images, read)
        if isinstance(item, Sample):
            yield from pack_sample(item, "jpg")
            if tally.images == limit:
                return
