"""A generator in a thread: the same items and errors, never too far ahead, always closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from sseg_core.data.read_ahead import read_ahead


class Source:
    """Counts what is taken from it, and sees its end."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.taken = 0
        self.closed = threading.Event()

    def items(self) -> Generator[int]:
        try:
            for item in range(self.count):
                self.taken += 1
                yield item
            if self.error:
                raise self.error
        finally:
            self.closed.set()


def test_the_items_come_in_order() -> None:
    """All of them, from a thread that ends with them."""
    before = threading.active_count()
    source = Source(1000)
    assert list(read_ahead(source.items(), 3)) == list(range(1000))
    assert source.closed.is_set()
    assert threading.active_count() == before
    assert list(read_ahead(Source(0).items(), 1)) == []


def test_it_stays_within_its_depth() -> None:
    """Two wait, one is in the hand of the thread, one in that of the reader."""
    source = Source(100)
    items = read_ahead(source.items(), 2)
    assert next(items) == 0
    time.sleep(0.3)
    assert source.taken == 4
    items.close()


def test_an_error_comes_behind_the_items_before_it() -> None:
    """The very error, where the items are used."""
    error = OSError("gone")
    items = read_ahead(Source(3, error).items(), 8)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone") as caught:
        next(items)
    assert caught.value is error


def test_closing_it_early_closes_the_source() -> None:
    """The thread ends, though nobody takes its items."""
    source = Source(10**9)
    items = read_ahead(source.items(), 2)
    next(items)
    items.close()
    assert source.closed.is_set()
