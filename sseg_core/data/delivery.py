"""How batches get from the loader processes of a run to its loop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from sseg_core.errors import SsegError

_PARENT_CHECK_S = 5.0
"""Seconds between looks whether the parent lives, as in torch's own watch."""


class Pinnable(Protocol):
    """A batch: what can be moved to where a GPU copies from directly."""

    def pinned(self) -> Self:
        """Return the same with pinned tensors."""
        ...


BatchT = TypeVar("BatchT", bound=Pinnable)


@dataclass(frozen=True)
class Delivery(Generic[BatchT]):
    """What a worker sends: a batch, or the error that ends its stream.

    An error is sent, not raised: torch would bury its sentence in a worker's traceback.
    """

    content: BatchT | SsegError

    def pin_memory(self) -> Delivery[BatchT]:
        """Return the same with pinned tensors; the DataLoader calls this."""
        if isinstance(self.content, SsegError):
            return self
        return Delivery(self.content.pinned())


def delivered(
    stream: IterableDataset[Delivery[BatchT]], workers: int, *, pin_memory: bool
) -> Iterator[BatchT]:
    """Yield the batches that the workers make of a stream, of each in turn.

    Raises:
        SsegError: while iterating: the one that a worker sends.
    """
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_parent,
        # Of its own: the loader must not draw from the generator that a resumed run restores.
        generator=torch.Generator(),
    )
    for delivery in loader:
        if isinstance(delivery.content, SsegError):
            raise delivery.content
        yield delivery.content


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker live through the signals that end or checkpoint its run, and not longer than it.

    Schedulers and torch's launcher send them to all processes; a worker that died of one would
    take along the step after which its parent wants to save. Only the parent's own SIGTERM, with
    which torch ends a worker that hangs, counts. torch's own watch over the parent does not see
    that it was killed before the worker had begun, and such a worker would wait for ever.

    Args:
        worker: number of the worker.
    """
    # The thread that hands over batches would print a traceback where the parent was killed; errors
    # of the worker itself travel to the parent another way.
    sys.excepthook = _say_nothing
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        name = f"signals of loader worker {worker}"
        threading.Thread(target=_end_when_parent_says, name=name, daemon=True).start()


def _say_nothing(*_: object) -> None:
    pass


def _end_when_parent_says() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    while os.getppid() == parent.pid:
        received = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK_S)
        if received is not None and received.si_pid == parent.pid:
            break
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
