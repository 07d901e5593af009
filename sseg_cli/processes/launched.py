"""What happens in a process that `launch` started, around the function that it is to run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

from sseg_core.errors import SsegError, Stopped

T = TypeVar("T")

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""The signals that a launcher passes on to its processes."""

HEAD_START_S = 1.0
"""Seconds that a failed rank waits, so that the launcher sees first a rank that was killed: its
end makes all others fail within milliseconds."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """What each process is to do.

    Attributes:
        worker: a function of a module, called with `args`.
        args: what it is called with.
        folder: where the processes leave their number and their failure for the launcher.
        launcher: process number of the launcher.
    """

    worker: Callable[..., T]
    args: tuple[Any, ...]
    folder: Path
    launcher: int


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, as its launcher reads it.

    Attributes:
        rank: the rank that failed.
        time: when, on a clock that all processes of one machine share.
        expected: the error where it was raised on purpose, to be raised again.
        follows: it is of a kind that the end of another rank causes.
        summary: type and first line of any error.
        trace: where it was raised.
    """

    rank: int
    time: float
    expected: SsegError | OSError | None
    follows: bool
    summary: str
    trace: str


def run_rank(job: Job[T]) -> T | Stopped | None:
    """Run the job in this process, which torch has told its rank.

    Returns:
        What the worker returned, if this is the first rank of its node, or how it was stopped.
    """
    rank = int(os.environ["RANK"])
    _take_signals(job.launcher)
    # The processes of a loader start in the way of the system again, not in that of this process.
    multiprocessing.set_start_method(None, force=True)
    running = job.folder / f"{rank}.pid"
    _write(running, str(os.getpid()).encode())
    try:
        value = job.worker(*job.args)
    except Stopped as stopped:
        # Not a failure: the other ranks may still be writing their part of the checkpoint.
        result: T | Stopped | None = stopped
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:  # noqa: BLE001 - the launcher raises it again, whatever it is
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _report(rank, error, job.folder)
    else:
        result = value if os.environ["LOCAL_RANK"] == "0" else None
    # From here on this process only waits for the others.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    running.unlink()
    return result


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures that the ranks of this node have reported, the likely cause first.

    A rank that fails leaves the process group before it reports, so that others may report first
    that it has left.
    """
    failures: list[Failure] = [
        pickle.loads(path.read_bytes())  # noqa: S301 - written by our own process, in our folder
        for path in folder.glob("*.failure")
    ]
    return sorted(failures, key=lambda failure: (failure.follows, failure.time))


def read_pids(folder: Path) -> dict[int, int]:
    """Return the process numbers of the ranks of this node that are at work."""
    pids: dict[int, int] = {}
    for path in folder.glob("*.pid"):
        try:
            pids[int(path.stem)] = int(path.read_text())
        except FileNotFoundError:  # it has finished since
            continue
    return pids


def _take_signals(launcher: int) -> None:
    """Let signals in, which the launcher held back until here.

    A terminal sends Ctrl-C to all processes of its group. In a group of its own this process gets
    it once, from the launcher. Before the worker sets its handlers there is nothing to save.
    """
    if os.getppid() != launcher:
        raise SystemExit(1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped("The run was stopped by SIGTERM.", "Run the same command: it goes on.")


def _report(rank: int, error: Exception, folder: Path) -> NoReturn:
    expected = error if isinstance(error, SsegError | OSError) else None
    if isinstance(expected, OSError) and expected.filename is None:
        expected = None  # of a connection, not of a file or a full disk
    first_line = str(error).strip().partition("\n")[0]
    summary = f"{type(error).__name__}: {first_line}".removesuffix(": ")
    failure = Failure(
        rank=rank,
        time=time.monotonic(),
        expected=expected,
        follows=_follows_another(error),
        summary=summary,
        trace=traceback.format_exc(),
    )
    _write(folder / f"{rank}.failure", pickle.dumps(failure))
    if expected is None:
        time.sleep(HEAD_START_S)
    raise SystemExit(1) from None


def _follows_another(error: Exception) -> bool:
    from torch.distributed import DistError  # NCCL's and the store's errors

    return isinstance(error, DistError) or "gloo/" in str(error)


def _write(path: Path, content: bytes) -> None:
    # The launcher reads at any moment, so a file appears whole or not at all.
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(path)
