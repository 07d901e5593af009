"""Work in a thread ahead of the one that needs it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1
_END_S = 10.0


class _End:
    """Behind the last item: what ended the thread, None if it came to the end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Generator[T], depth: int) -> Generator[T]:
    """Yield the items of a generator that runs in a thread, at most `depth` items ahead.

    Its errors are raised here. Closing this generator closes that one.
    """
    ready: Queue[T | _End] = Queue(depth)
    stopped = Event()

    def offer(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_POLL_S)
            except Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            with closing(items):
                for item in items:
                    if not offer(item):
                        return
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are used
            offer(_End(error))
        else:
            offer(_End(None))

    thread = Thread(target=fill, daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join(_END_S)  # it may hang in a slow download, which must not hold up an interrupt
