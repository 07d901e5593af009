"""Signals are noted, and asked for at the end of a step."""

from __future__ import annotations

import os
import signal

import pytest

from sseg_core.training.signals import Requests, Signals


@pytest.fixture(autouse=True)
def _default_interrupt() -> None:
    # A suite started in a script's background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGUSR1, Requests(save=True, stop=False, interrupt=False)),
        (signal.SIGTERM, Requests(save=False, stop=True, interrupt=False)),
        (signal.SIGINT, Requests(save=False, stop=False, interrupt=True)),
    ],
)
def test_a_signal_asks_once(number: signal.Signals, expected: Requests) -> None:
    """It is told at the next question, and not again; the handlers of before come back."""
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.take() == Requests(save=False, stop=False, interrupt=False)
        os.kill(os.getpid(), number)
        assert signals.take() == expected
        assert signals.take() == Requests(save=False, stop=False, interrupt=False)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C again, a while later, interrupts at once; the echo of the first one does not."""
    now = 100.0
    monkeypatch.setattr("sseg_core.training.signals.time.monotonic", lambda: now)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        now = 100.5
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.take().interrupt
        now = 105.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A run in a script's background is not ended by the terminal's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert not signals.take().interrupt
