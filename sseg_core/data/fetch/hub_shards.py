"""Tar files of a webdataset of the hub, on their way here: the next while one is packed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from sseg_core.data.fetch.hub_dataset import HubDataset, HubShard, cached_shard
from sseg_core.data.fetch.hub_download import download, hub_error
from sseg_core.errors import SsegError

_POLL_S = 0.25


class Arrivals:
    """The tar files that are being fetched; those in the hub's cache are read where they are.

    What has come is kept when the program ends, and the next run goes on at its byte.
    """

    def __init__(self, dataset: HubDataset, folder: Path, packed: Iterable[str]) -> None:
        """Begin with none.

        Args:
            dataset: that they belong to.
            folder: to keep them in.
            packed: shards whose files are wanted no more; a run that was killed may have left
                them.
        """
        self._dataset = dataset
        self._folder = folder
        self._fetches: dict[str, _Fetch] = {}
        for name in packed:
            self.discard(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fetch in self._fetches.values():
            fetch.stop()

    def order(self, wanted: tuple[str, HubShard] | None) -> None:
        """Begin to fetch the tar file of a shard, unless it is there or on its way."""
        if wanted is None or wanted[0] in self._fetches:
            return
        name, shard = wanted
        if cached_shard(self._dataset, shard) is None:
            self._fetches[name] = _Fetch(self._dataset, shard, self._path(name))

    def take(self, name: str, shard: HubShard, waiting: Callable[[int], None]) -> Path:
        """Return the path of the tar file of a shard, once it is here.

        Args:
            name: of the shard.
            shard: what it is made of.
            waiting: is told now and then how many bytes of it are there.

        Raises:
            DataError: it cannot be fetched, or comes with other bytes than the hub states.
        """
        cached = cached_shard(self._dataset, shard)
        if cached is not None:
            return cached
        self.order((name, shard))
        fetch = self._fetches[name]
        while (path := fetch.wait(_POLL_S)) is None:
            waiting(fetch.bytes)
        del self._fetches[name]
        return path

    def discard(self, name: str) -> None:
        """Remove the tar file of a shard that is packed."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.source"


class _Fetch:
    """A tar file on its way here, in a thread of its own.

    Attributes:
        bytes: that are there.
    """

    def __init__(self, dataset: HubDataset, shard: HubShard, path: Path) -> None:
        """Begin, or go on where an earlier run stopped.

        Args:
            dataset: that it belongs to.
            shard: what is fetched.
            path: where it is put when it is whole; it is there already after a run that was
                stopped while it was packed.
        """
        self.bytes = 0
        self._dataset = dataset
        self._shard = shard
        self._path = path
        self._error: Exception | None = None
        self._is_stopped = False
        # A daemon: a program that ends does not wait for the network.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Path | None:
        """Return the path of the whole file; None if it is still on its way after some seconds.

        Raises:
            DataError: it cannot be fetched.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            return None
        if self._error is not None:
            error = hub_error(self._dataset.repository, "dataset", self._error)
            raise error from self._error
        return self._path

    def stop(self) -> None:
        """Fetch no more; what is there stays for the next run."""
        self._is_stopped = True

    def _run(self) -> None:
        from huggingface_hub import hf_hub_url

        if self._path.exists():
            return
        shard, dataset = self._shard, self._dataset
        try:
            url = hf_hub_url(
                dataset.repository, shard.path, repo_type="dataset", revision=dataset.commit
            )
            download(url, self._path, size=shard.bytes, etag=shard.etag, told=self._told)
        except Exception as error:  # noqa: BLE001 - it is raised where the file is waited for
            self._error = error

    def _told(self, count: int) -> None:
        if self._is_stopped:
            raise _StoppedError
        self.bytes += count


class _StoppedError(SsegError):
    def __init__(self) -> None:
        super().__init__("The download was stopped.")
