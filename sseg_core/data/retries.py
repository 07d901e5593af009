"""Work that may fail for a while, or hang: tried again, and never waited for without end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from sseg_core.errors import printable

T = TypeVar("T")

TIMEOUT_S = 60.0
"""How long one attempt to open or to read may take."""

_ATTEMPTS = 3
_BACK_OFF_S = 1.0  # before the second attempt; twice that before the third
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)
_REFUSALS = frozenset({400, 401, 403, 404, 405, 410, 416})  # of HTTP; they stay as they are


def in_time(action: Callable[[], T]) -> T:
    """Run `action` in a thread, and wait no longer than `TIMEOUT_S` for it.

    Client libraries differ in their timeouts; none bounds a server that sends a byte now and then.

    Raises:
        TimeoutError: it was not done in time; the thread is left to itself.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001 - it is raised where the result is used
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return future.result(TIMEOUT_S)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {TIMEOUT_S:g} s") from None


def with_retries(action: Callable[[], T]) -> T:
    """Run `action` up to three times, unless its error is one that stays; raise the last one."""
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except Exception as error:  # each file system raises the errors of its client library
            if attempt == _ATTEMPTS - 1 or not _is_transient(error):
                raise
            time.sleep(_BACK_OFF_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def reason_of(error: Exception) -> str:
    """Return why in a few words, whichever library the error is from."""
    root = _root(error)
    if isinstance(root, FileNotFoundError) or getattr(root, "status", None) == 404:
        return "no such file"
    text = getattr(root, "strerror", None) or getattr(root, "message", None) or str(root)
    return printable(text or type(root).__name__).lower().rstrip(".")


def _is_transient(error: Exception) -> bool:
    """Tell whether another attempt may succeed."""
    root = _root(error)
    status = getattr(root, "status", None)  # of HTTP
    if status is not None:
        return status not in _REFUSALS
    if isinstance(error, _LASTING):
        # fsspec calls every failure of HTTP a missing file; what it was, its cause tells.
        return isinstance(root, OSError) != isinstance(root, _LASTING)
    return True


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
