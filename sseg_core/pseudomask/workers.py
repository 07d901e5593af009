"""The shards of a draft shared out: to this process, to several, to other machines.

Whoever is free claims the next shard that nobody makes and nobody has finished. No process is told
which shards are its own, so a slow or a killed one leaves no gap.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.device import available_cores, pick_device
from sseg_core.errors import DataError
from sseg_core.pseudomask.pipeline import Shard, ShardMaker
from sseg_core.shared_draft import SharedDraft
from sseg_core.tracking import Progress

_POLL_S = 1.0  # between looks at the shards that others make
_SHOWN = 3
_END_S = 5.0


@dataclass(frozen=True)
class Work:
    """What is to be made; it travels to worker processes.

    Attributes:
        config: how masks are made.
        draft: where the shards of masks go.
        shards: path or URL of every shard of pairs, by its name.
    """

    config: PseudomaskConfig
    draft: SharedDraft
    shards: Mapping[str, str]

    def missing(self) -> list[str]:
        """Return the names of the shards that nobody has finished, none if all is published."""
        if not self.draft.is_open():
            return []
        self.draft.refresh()
        return [name for name in self.shards if name not in self.draft.finished]


@dataclass(frozen=True)
class Report:
    """What a worker did: images, and the seconds it took, without those it waited for others."""

    images: int = 0
    seconds: float = 0.0


def run_worker(work: Work, maker: ShardMaker, progress: Progress) -> Report:
    """Make what is missing, and wait for what others make, until all is finished by whomever."""
    images, seconds, waits = 0, 0.0, False
    while missing := work.missing():
        begin = time.perf_counter()
        held: list[Shard] = []
        try:
            images += maker.make(_claimed(work, missing, held))
        finally:
            for shard in held:
                shard.claim.release()
        if held:
            seconds += time.perf_counter() - begin
            continue
        if not waits:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            progress.message(
                f"waiting for shards that other processes make: {', '.join(missing[:_SHOWN])}{more}"
            )
            waits = True
        time.sleep(_POLL_S)
    return Report(images, seconds)


def _claimed(work: Work, names: Sequence[str], held: list[Shard]) -> Iterator[Shard]:
    """Yield those of the shards that can be claimed when it is their turn; note them in `held`."""
    for name in names:
        claim = work.draft.claim(name)
        if claim is not None:
            shard = Shard(name, work.shards[name], work.draft, claim)
            held.append(shard)
            yield shard


def run_processes(work: Work, devices: Sequence[str], progress: Progress) -> list[Report]:
    """Run one worker process per device; return what those did that came to their end.

    A process that is killed is told of, and the others make its shards. After an error in one the
    others are ended, and it is raised here. None outlives this call.

    Raises:
        DataError: shards are missing at the end, since every process that could make them died.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // len(devices))
    processes: dict[Connection, tuple[str, BaseProcess]] = {}
    reports: list[Report] = []
    told = False
    try:
        with _no_interrupts():
            for device in devices:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work_in_process, args=(theirs, work, device, threads), daemon=True
                )
                process.start()
                theirs.close()  # so that its end is seen here
                processes[ours] = (device, process)
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                try:
                    item = connection.recv()
                except EOFError:
                    device, ended = processes.pop(connection)
                    ended.join()
                    if ended.exitcode:
                        progress.message(_obituary(device, ended.exitcode))
                    continue
                if isinstance(item, Report):
                    reports.append(item)
                elif isinstance(item, BaseException):
                    raise item
                elif isinstance(item, str):
                    # Towards the end all that are out of work say that they wait; one is enough.
                    if not told:
                        progress.message(item)
                    told = True
                else:
                    progress.advance(item)
    finally:
        _end([process for _, process in processes.values()])
    if missing := work.missing():
        raise DataError(
            f"All {len(devices)} worker processes were killed; {len(missing)} of "
            f"{len(work.shards)} shards are still to be made.",
            "Run the same command again: it goes on where they stopped.",
        )
    return reports


class _SentProgress:
    """Sends what a worker tells to the process that shows it; a task of its own it never starts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, task: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **_: str) -> None:
        self._connection.send(count)

    def message(self, text: str) -> None:
        self._connection.send(text)


def _work_in_process(connection: Connection, work: Work, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    progress = _SentProgress(connection)
    try:
        maker = ShardMaker(work.config, pick_device(device), progress, threads=threads)
        connection.send(run_worker(work, maker, progress))
    except BrokenPipeError:
        pass  # the process that started this one is gone
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where it is seen
        error.add_note(f"in the worker on {device}:\n{traceback.format_exc()}")
        connection.send(error)


def _obituary(device: str, exit_code: int) -> str:
    how = (
        f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
    )
    return f"a worker on {device} was ended {how}; the others make its shard again"


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_END_S)
        if process.exitcode is None:
            process.kill()
            process.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that leave Ctrl-C to this one, which then ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
