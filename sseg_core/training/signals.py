"""Signals that a scheduler or a user sends to a running training, agreed on by all ranks."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

import torch

from sseg_core.distributed import max_over_ranks

_SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none
_SAME_KEYPRESS_S = 1.0  # a terminal's Ctrl-C may arrive twice, passed on by the launcher too


@dataclass(frozen=True)
class Requests:
    """What signals asked for, the same on every rank.

    Attributes:
        save: write a checkpoint, and go on (SIGUSR1).
        stop: write a checkpoint, and end (SIGTERM).
        interrupt: the same, by Ctrl-C (SIGINT).
    """

    save: bool
    stop: bool
    interrupt: bool


class Signals:
    """Notes SIGTERM, SIGUSR1 and SIGINT until the loop asks for them, at the end of a step.

    A second Ctrl-C interrupts at once. Nothing is written inside a handler. Outside the main
    thread no handlers can be set, and none are.
    """

    def __init__(self) -> None:
        self._noted = [False, False, False]
        self._interrupted_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (_SAVE, signal.SIGTERM, signal.SIGINT):
                # An ignored interrupt, as in a script's background, stays ignored.
                if number is None or (number == signal.SIGINT and _is_ignored(number)):
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def take(self) -> Requests:
        """Return what any rank was asked for since the last call; every rank must call it."""
        noted = max_over_ranks(torch.tensor(self._noted, dtype=torch.uint8)).tolist()
        self._noted = [False, False, False]
        return Requests(*(bool(flag) for flag in noted))

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at and now - self._interrupted_at > _SAME_KEYPRESS_S:
                raise KeyboardInterrupt
            self._interrupted_at = now
        kinds = (_SAVE, signal.SIGTERM, signal.SIGINT)
        self._noted[kinds.index(number)] = True


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
