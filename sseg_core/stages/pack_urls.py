"""Shards of a list of image URLs: fetched, shrunk and written as they fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sseg_core.artifacts import Artifact
from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.big_file import fetch_file
from sseg_core.data.fetch.outcomes import TABLE, read_outcomes
from sseg_core.data.fetch.plan import FEWER_OR_SMALLER, DownloadPlan, expected_bytes
from sseg_core.data.fetch.tally import Tally
from sseg_core.data.fetch.url_list import UrlList, UrlRow, open_redcaps, open_url_list
from sseg_core.data.fetch.url_shard import ShardTask
from sseg_core.data.fetch.workers import fetch_shards
from sseg_core.data.keys import safe_key
from sseg_core.data.sources import PAIRS
from sseg_core.device import available_cores
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, printable
from sseg_core.stages.pairs_packer import parts_of, shard_name
from sseg_core.tracking import Progress

_MENDS = {
    "": "Ask again for those that failed with --retry-failed",
    "private address": "If the list is of your own network, --set fetch.private_addresses=true",
    "host not found": "Check this machine's connection, and ask again with --retry-failed",
    "bad line": "Name the columns with --set fetch.url_column=NAME and fetch.caption_column=NAME",
}


@dataclass(frozen=True)
class UrlPacker:
    """Packs the images of a URL list; see `PairsPacker`.

    Attributes:
        name: of the artifact, where the user gives none.
        urls: the list.
        images: how many of its rows are taken.
        retry_failed: whether rows of finished shards that failed are asked for again.
        contents: what it is, in a few words.
        licence: likewise, where it is known.
        terms: address of the page with the terms.
    """

    name: str
    urls: UrlList
    images: int
    retry_failed: bool
    contents: str
    licence: str = ""
    terms: str = ""

    @property
    def identity(self) -> Mapping[str, str]:
        """The digest of the list."""
        return {"urls_sha256": self.urls.sha256}

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """None: this is where data comes in."""
        return ()

    def plan(self, config: DownloadConfig, folder: Path, /) -> DownloadPlan:
        """Return what fetching takes, if all images can be had."""
        images = sum(map(len, parts_of(self.images, config).values()))
        return DownloadPlan(
            config.source,
            self.contents,
            "the web",
            folder,
            licence=self.licence,
            terms=self.terms,
            images=images,
            disk_bytes=expected_bytes(images, config),
            less=FEWER_OR_SMALLER,
        )

    def pack(self, config: DownloadConfig, draft: Draft, progress: Progress, /) -> tuple[str, ...]:
        """Fetch what is missing; return the names of all shards."""
        parts = parts_of(self.images, config)
        length = sum(map(len, parts.values()))
        earlier = {
            shard: Tally.from_note(draft.finished[shard])
            for shard in parts
            if shard in draft.finished
        }
        again = {shard for shard in earlier if self.retry_failed and earlier[shard].skipped}
        kept = Tally.of(earlier[shard] for shard in earlier if shard not in again)
        tried = Tally.of(earlier[shard] for shard in again)
        progress.start("download", length, "images")
        if len(earlier) > len(again):
            count = len(earlier) - len(again)
            progress.message(f"{count} of {len(parts)} shards are there from an earlier run")
        if again:
            progress.message(f"{tried.skipped.total():,} images that failed are asked for again")
        shown = _Shown(progress, kept.images + tried.images, kept.skipped.total())
        total = kept

        def done(shard: str, tally: Tally) -> None:
            draft.commit(table_of(shard))
            draft.commit(shard, tally.note())
            total.add(tally)
            total.check(length, config.min_success, _MENDS)

        wanted = [shard for shard in parts if shard not in earlier or shard in again]
        if wanted:
            fetch_shards(
                self._tasks(wanted, again, config, draft),
                config,
                processes=_processes(config, len(wanted)),
                done=done,
                advance=shown.advance,
            )
        total.check(length, config.min_success, _MENDS)
        return tuple(parts)

    def _tasks(
        self, wanted: Sequence[str], again: set[str], config: DownloadConfig, draft: Draft
    ) -> Iterator[ShardTask]:
        left = set(wanted)
        rows = islice(self.urls.rows(), self.images)
        number = 0
        while left and (part := list(islice(rows, config.shard_size))):
            shard = shard_name(number)
            if shard in left:
                left.remove(shard)
                yield self._task(shard, number * config.shard_size, part, draft, shard in again)
            number += 1

    def _task(
        self,
        shard: str,
        first: int,
        rows: list[UrlRow],
        draft: Draft,
        again: bool,  # noqa: FBT001
    ) -> ShardTask:
        tar, table = draft.path / shard, draft.path / table_of(shard)
        return ShardTask(
            name=shard,
            first=first,
            rows=rows,
            tar=draft.partial(shard),
            table=draft.partial(table_of(shard)),
            earlier=(tar, tuple(read_outcomes(table))) if again else None,
        )


class _Shown:
    """Shows how many images were fetched, and what share of those that were asked for."""

    def __init__(self, progress: Progress, fetched: int, failed: int) -> None:
        self._progress = progress
        self._fetched = self._failed = 0
        if fetched or failed:
            self.advance(fetched, failed)

    def advance(self, fetched: int, failed: int) -> None:
        self._fetched += fetched
        self._failed += failed
        share = 100 * self._fetched / (self._fetched + self._failed)
        self._progress.advance(fetched + failed, usable=f"{share:.0f}%")


def open_urls(argument: str, config: DownloadConfig, *, retry_failed: bool) -> UrlPacker:
    """Return what packs the images of a URL list.

    Raises:
        ConfigError: no file is named, or it has no columns of URLs and captions.
        DataError: it cannot be used.
    """
    if not argument:
        raise ConfigError("The source urls: lacks its file.", "For example: urls:cc12m.tsv")
    file = Path(argument).expanduser()
    urls = open_url_list(file, config.fetch.url_column, config.fetch.caption_column)
    name = safe_key(file.name.partition(".")[0])[:56]
    images = min(config.limit or urls.length, urls.length)
    return UrlPacker(name, urls, images, retry_failed, f"URLs of {printable(file.name)}")


def open_redcaps_urls(
    argument: str,
    config: DownloadConfig,
    folder: Path,
    progress: Progress,
    *,
    retry_failed: bool,
) -> UrlPacker:
    """Return what packs RedCaps: the first 11 million images, as in the paper, or `limit`.

    Args:
        argument: the archive of its annotations; empty to fetch it.
        config: its `limit`.
        folder: where the archive is kept when it is fetched, for other parts and retries.
        progress: is told of the fetching.
        retry_failed: see `UrlPacker`.

    Raises:
        DataError: the archive cannot be fetched or read.
    """
    (source,) = (source for source in PAIRS if source.name == "redcaps")
    assert source.annotations is not None
    file = Path(argument).expanduser()
    if not argument:
        file = folder / source.annotations.name
        fetch_file(source.annotations, file, progress)
    progress.message(f"reading {printable(file)}")
    urls = open_redcaps(file)
    images = min(config.limit or source.limit or urls.length, urls.length)
    return UrlPacker(
        source.name, urls, images, retry_failed, source.contents, source.licence, source.terms
    )


def table_of(shard: str) -> str:
    """Return the name of the table of a shard's outcomes."""
    return shard.removesuffix(".tar") + TABLE


def _processes(config: DownloadConfig, shards: int) -> int:
    """Return how many processes fetch; each must get a request at least, and one to each host."""
    fetch = config.fetch
    most = min(fetch.connections, fetch.per_host, shards)
    return min(fetch.processes or available_cores(), most)
