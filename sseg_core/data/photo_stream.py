"""Photos decoded while others are worked on: in order, and within a bound of memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition

from sseg_core.data.images import ImageError, RGBImage, decode_image, image_size
from sseg_core.data.photos import Photo

_AHEAD = 8
"""Photos that are read before they are needed."""


class PixelBudget:
    """Bounds the pixels of all photos that are in memory; they get in one after the other.

    Some get in however large they are: as many as are needed together before any can leave.

    Args:
        photos: that get in whatever their size, at least 1.
        pixels: in memory at once otherwise.
    """

    def __init__(self, photos: int = 1, pixels: int = 1 << 26) -> None:
        self._least = photos
        self._limit = pixels
        self._inside = 0
        self._used = 0
        self._next = 0
        self._closed = False
        self._changed = Condition()

    def enter(self, number: int, pixels: int) -> None:
        """Wait for the turn of a photo, and for room; with 0 pixels for the turn alone.

        Args:
            number: of the photo: each from 0 on enters once. A later one never takes the room
                that an earlier one waits for, which would have both wait for ever.
            pixels: of the photo.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (
                        number == self._next
                        and (self._inside < self._least or self._used + pixels <= self._limit)
                    )
                )
            )
            self._next += 1
            self._inside += pixels > 0
            self._used += pixels
            self._changed.notify_all()

    def leave(self, pixels: int) -> None:
        """Give the room of a photo back."""
        with self._changed:
            self._inside -= 1
            self._used -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """Let all that wait go: their photos are not needed any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def decoded_photos(
    photos: Iterable[Photo],
    read: Callable[[Photo], bytes],
    *,
    max_pixels: int,
    budget: PixelBudget,
    threads: int = 2,
) -> Iterator[tuple[Photo, RGBImage | ImageError]]:
    """Yield photos with their pixels, or with what is wrong with them, in their order.

    The caller gives the room of each image back to the budget once it is done with it.

    Args:
        photos: what to read.
        read: returns the bytes of the image file, or raises ImageError.
        max_pixels: larger images are refused before they are decoded.
        budget: of the pixels in memory.
        threads: that read and decode.
    """

    def load(number: int, photo: Photo) -> RGBImage | ImageError:
        pixels = 0
        entered = False
        try:
            data = read(photo)
            height, width = image_size(data, max_pixels=max_pixels)
            pixels = height * width
            budget.enter(number, pixels)
            entered = True
            return decode_image(data, max_pixels=max_pixels)
        except ImageError as error:
            if entered:
                budget.leave(pixels)
            else:
                budget.enter(number, 0)
            return ImageError(error.reason, error.problem, photo.shown)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    waiting: deque[tuple[Photo, Future[RGBImage | ImageError]]] = deque()
    try:
        for number, photo in enumerate(photos):
            waiting.append((photo, pool.submit(load, number, photo)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        budget.close()
        pool.shutdown(wait=True, cancel_futures=True)
