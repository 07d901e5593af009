"""Shards of a URL list, fetched by several processes with hundreds of requests in flight.

Each process fetches, shrinks and writes whole shards, a few at once: while the last slow hosts of
one are waited for, the next is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.image_request import FetchError, ImageRequests
from sseg_core.data.fetch.tally import Tally
from sseg_core.data.fetch.url_shard import ShardTask, UrlShard
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError, SsegError

_OPEN_SHARDS = 3  # of a process at once
_PENDING = 4  # rows that wait for their host, for each request in flight
_LOOKUPS = 64  # of hosts at once
_TELL_S = 0.25
_FILES = 2**16  # open at once, connections among them
_END_S = 5.0


@dataclass(frozen=True)
class _Done:
    name: str
    note: dict[str, Any]


@dataclass(frozen=True)
class _Counts:
    fetched: int
    failed: int


@dataclass(frozen=True)
class _Failure:
    message: str
    hint: str


def fetch_shards(
    tasks: Iterator[ShardTask],
    config: DownloadConfig,
    *,
    processes: int,
    done: Callable[[str, Tally], None],
    advance: Callable[[int, int], None],
) -> None:
    """Make the shards of all tasks.

    Args:
        tasks: taken one by one, as processes become free.
        config: how images are fetched and fitted.
        processes: how many.
        done: is told of each finished shard, in any order.
        advance: is told how many more images were fetched, and how many could not be.

    Raises:
        DataError: a shard cannot be written, or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    links: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(processes):
            own, other = context.Pipe()
            process: BaseProcess = context.Process(
                target=_work, args=(other, config, processes), daemon=True
            )
            process.start()
            other.close()
            links[own] = process
        _serve(links, tasks, done, advance)
    finally:
        for link in links:
            link.close()
        end = time.monotonic() + _END_S
        for process in links.values():
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _serve(
    links: dict[Connection, BaseProcess],
    tasks: Iterator[ShardTask],
    done: Callable[[str, Tally], None],
    advance: Callable[[int, int], None],
) -> None:
    """Hand out tasks and take results until all is done."""
    unfinished = dict.fromkeys(links, 0)
    all_out = False
    while True:
        for link in links:
            while not all_out and unfinished[link] < _OPEN_SHARDS:
                task = next(tasks, None)
                if task is None:
                    all_out = True
                    break
                link.send(task)
                unfinished[link] += 1
        if all_out and not any(unfinished.values()):
            return
        for ready in wait(list(links)):
            link = cast("Connection", ready)
            try:
                word = link.recv()
            except (EOFError, ConnectionError) as error:
                raise DataError(
                    "A process that fetches images was killed, probably for lack of memory.",
                    "Run the same command again: it goes on where it stopped. Fewer processes "
                    "need less: --set fetch.processes=1.",
                ) from error
            if isinstance(word, _Failure):
                raise DataError(word.message, word.hint)
            if isinstance(word, _Done):
                unfinished[link] -= 1
                done(word.name, Tally.from_note(word.note))
            else:
                advance(word.fetched, word.failed)


def _work(link: Connection, config: DownloadConfig, processes: int) -> None:
    """Be a process: fetch the shards that come through the link, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the link
    _allow_many_files()
    asyncio.run(_Worker(link, config).run(processes))


class _Worker:
    def __init__(self, link: Connection, config: DownloadConfig) -> None:
        self._link = link
        self._config = config
        self._fetched = self._failed = 0
        # One thread has all spools and decodes one image at a time.
        self._fitting = ThreadPoolExecutor(1)

    async def run(self, processes: int) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS))
        receiving = ThreadPoolExecutor(1)
        self._requests = ImageRequests.open(self._config.fetch, processes)
        at_once = max(1, self._config.fetch.connections // processes)
        self._pending = asyncio.Semaphore(_PENDING * at_once)
        running = {asyncio.create_task(self._tell())}
        async with self._requests.session:
            while True:
                try:
                    task: ShardTask = await loop.run_in_executor(receiving, self._link.recv)
                except (EOFError, OSError):
                    return  # the parent has ended, by itself or not: nobody wants the rest
                making = asyncio.create_task(self._make(task))
                running.add(making)
                making.add_done_callback(running.discard)

    async def _make(self, task: ShardTask) -> None:
        """Fetch the rows of a shard, and write it."""
        loop = asyncio.get_running_loop()
        try:
            shard = await loop.run_in_executor(self._fitting, UrlShard, task, self._config)
            async with asyncio.TaskGroup() as group:
                for index in shard.wanted():
                    await self._pending.acquire()
                    group.create_task(self._fetch(shard, index))
            tally = await loop.run_in_executor(self._fitting, shard.finish)
        except Exception as error:  # noqa: BLE001 - the parent must not wait for ever
            self._say(_failure(task, error))
        else:
            self._tell_counts()
            self._say(_Done(task.name, tally.note()))

    async def _fetch(self, shard: UrlShard, index: int) -> None:
        row = shard.task.rows[index]
        try:
            if not row.url:
                raise FetchError("bad line")
            if not row.caption:
                raise FetchError("no caption")
            body = await self._requests.fetch(row.url)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._fitting, shard.take, index, body)
            self._fetched += 1
        except (FetchError, ImageError) as error:
            shard.fail(index, error.reason)
            self._failed += 1
        except (SsegError, OSError):
            raise  # of the disk: no row can be kept
        except Exception as error:  # noqa: BLE001 - whatever a stranger thought of costs one row
            shard.fail(index, f"unexpected {type(error).__name__}")
            self._failed += 1
        finally:
            self._pending.release()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            self._tell_counts()

    def _tell_counts(self) -> None:
        if self._fetched or self._failed:
            self._say(_Counts(self._fetched, self._failed))
            self._fetched = self._failed = 0

    def _say(self, word: _Done | _Counts | _Failure) -> None:
        with contextlib.suppress(OSError):  # the parent has ended
            self._link.send(word)


def _failure(task: ShardTask, error: Exception) -> _Failure:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SsegError):
        return _Failure(error.message, error.hint)
    lines = "".join(traceback.format_exception(error))
    return _Failure(f"Fetching {task.name} failed: {type(error).__name__}.", lines)


def _allow_many_files() -> None:
    """Raise the number of open files, connections among them, as far as this process may."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    own, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
    if own != resource.RLIM_INFINITY and own < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
