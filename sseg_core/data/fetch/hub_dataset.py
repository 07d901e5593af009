"""Webdatasets of the Hugging Face hub: which tar files there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sseg_core.data.fetch.hub_download import hub_error
from sseg_core.errors import DataError, printable

_TAR = re.compile(r"\.tar(\.gz|\.xz|\.bz2)?$")
_TRAIN = re.compile(r"(^|[^a-z])train([^a-z]|$)", re.IGNORECASE)
_EXAMPLES = 3


@dataclass(frozen=True)
class HubShard:
    """A tar file of a repository.

    Attributes:
        path: in the repository.
        bytes: its size.
        etag: SHA-256 of its bytes, where the hub tells it.
    """

    path: str
    bytes: int
    etag: str | None


@dataclass(frozen=True)
class HubDataset:
    """Tar files of a repository, at one commit.

    Attributes:
        repository: ORG/NAME.
        commit: of the hub.
        licence: as its card states it; may be empty.
        shards: in the order of their paths.
    """

    repository: str
    commit: str
    licence: str
    shards: tuple[HubShard, ...]

    @property
    def page(self) -> str:
        """Address for people."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/datasets/{self.repository}"


def open_dataset(repository: str, *, pattern: str | None, revision: str | None) -> HubDataset:
    """Return the tar files of a webdataset; with HF_HUB_OFFLINE those that the hub's cache holds.

    Args:
        repository: ORG/NAME of a dataset.
        pattern: of the paths or the names of the files, as in a shell; None for those with
            `train` in their path if there are any, else all.
        revision: branch, tag or commit; None for the newest.

    Raises:
        ConfigError: the repository is not named as one.
        DataError: it cannot be had, or has no such files.
    """
    from huggingface_hub import constants

    try:
        found = (_cached if constants.HF_HUB_OFFLINE else _listed)(repository, revision)
    except Exception as error:  # the hub's client raises errors of many libraries
        raise hub_error(repository, "dataset", error, revision or "") from error
    tars = [shard for shard in found.shards if _TAR.search(shard.path)]
    if not tars:
        raise DataError(
            f"{repository} has no tar files: it is no webdataset.",
            "Export its images and captions, and pack them with pairs:FILE; a table of image URLs "
            "with urls:FILE.",
        )
    chosen = _chosen(tars, pattern)
    if not chosen:
        some = ", ".join(printable(shard.path) for shard in tars[:_EXAMPLES])
        raise DataError(
            f"No tar file of {repository} is called {printable(pattern)!r}.",
            f"It has {len(tars):,}, such as {some}: give --set hub.pattern=PATTERN.",
        )
    shards = tuple(sorted(chosen, key=lambda shard: shard.path))
    return HubDataset(repository, found.commit, found.licence, shards)


def cached_shard(dataset: HubDataset, shard: HubShard) -> Path | None:
    """Return a tar file that the hub's cache holds, without network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(
        dataset.repository, shard.path, revision=dataset.commit, repo_type="dataset"
    )
    return Path(path) if isinstance(path, str) else None


def _listed(repository: str, revision: str | None) -> HubDataset:
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.dataset_info(repository, revision=revision)
    commit = str(info.sha)
    tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type="dataset")
    shards = [_shard(entry) for entry in tree if hasattr(entry, "size")]
    licence = info.card_data.get("license") if info.card_data else None
    return HubDataset(repository, commit, _text(licence), tuple(shards))


def _shard(entry: Any) -> HubShard:
    large = entry.lfs
    etag = None if large is None else large.sha256
    return HubShard(entry.path, entry.size if large is None else large.size, etag)


def _cached(repository: str, revision: str | None) -> HubDataset:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shards = [
        HubShard(path.relative_to(folder).as_posix(), path.stat().st_size, None) for path in files
    ]
    return HubDataset(repository, folder.name, "", tuple(shards))


def _chosen(tars: Sequence[HubShard], pattern: str | None) -> Sequence[HubShard]:
    if pattern is None:
        return [shard for shard in tars if _TRAIN.search(shard.path)] or tars
    return [
        shard
        for shard in tars
        if fnmatchcase(shard.path, pattern) or fnmatchcase(Path(shard.path).name, pattern)
    ]


def _text(licence: object) -> str:
    texts = licence if isinstance(licence, list) else [licence]
    return ", ".join(printable(text) for text in texts if isinstance(text, str))
