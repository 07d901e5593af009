"""Where the windows of an image lie, and which of them cover which pixels.

An image may be looked at several times: at several sizes, and mirrored. Each look has windows of
its own, which cover the image. What they tell is put together at the pixels of the result, so that
no look needs to know of the size of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Box:
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The first column to the right."""
        return self.left + self.width


@dataclass(frozen=True)
class Window:
    """A part of an image as a network saw it.

    Attributes:
        box: in pixels of the image at the size at which it was shown.
        shown_size: height and width of the whole image at that size.
        mirrored: the network saw the mirror image, so that the columns of what it made of the
            window count from the right border of the box.
        look: number of the look at the image that the window belongs to.
    """

    box: Box
    shown_size: tuple[int, int]
    mirrored: bool = False
    look: int = 0

    def positions(
        self, axis: int, index: npt.NDArray[np.integer], pixels: int
    ) -> npt.NDArray[np.float64]:
        """Return how far the centres of pixels are from the first border that the network saw.

        Args:
            axis: 0 for rows, 1 for columns.
            index: of pixels of the result.
            pixels: its height or width, to which the image is stretched.

        Returns:
            As many numbers, in pixels of the image as it was shown.
        """
        centres = (index.astype(np.float64) + 0.5) * (self.shown_size[axis] / pixels)
        if axis == 1 and self.mirrored:
            return self.box.right - centres
        return centres - (self.box.top, self.box.left)[axis]


@dataclass(frozen=True)
class Region:
    """Pixels of the result that the same windows cover.

    Attributes:
        box: in pixels of the result.
        looks: for each look the indices of its windows that cover all of the box; they cover
            nothing of it in part.
    """

    box: Box
    looks: tuple[tuple[int, ...], ...]

    @property
    def shares(self) -> dict[int, int]:
        """For each window by index the n whose 1 / n it counts: all looks count the same."""
        return {index: len(look) * len(self.looks) for look in self.looks for index in look}


def window_boxes(size: tuple[int, int], window: int, stride: int) -> list[Box]:
    """Return square windows that cover an image, as mmsegmentation's `slide_inference` lays them.

    They are `stride` apart; the last of a row or column is moved back until it is flush with the
    border. A side that is shorter than the window gets one window of its own length.

    Args:
        size: height and width of the image.
        window: side of the windows; 0 for one window that is the image.
        stride: pixels from one window to the next, at most `window`; 0 for half a window (our
            choice, not in the paper).
    """
    height, width = size
    if not window:
        return [Box(0, 0, height, width)]
    step = stride or max(1, window // 2)
    return [
        Box(top, left, min(window, height), min(window, width))
        for top in _starts(height, window, step)
        for left in _starts(width, window, step)
    ]


def regions(windows: Sequence[Window], size: tuple[int, int]) -> Iterator[Region]:
    """Cut the result into the largest boxes whose pixels are all in the same windows.

    A pixel of the result is in a window if its centre is.

    Args:
        windows: those of each look cover the image; the windows of a look follow each other.
        size: height and width of the result, to which the image is stretched.
    """
    looks = [
        [index for index, _ in members]
        for _, members in groupby(enumerate(windows), key=lambda item: item[1].look)
    ]
    rows = _intervals([_span(window, 0, size[0]) for window in windows])
    columns = _intervals([_span(window, 1, size[1]) for window in windows])
    for top, bottom, in_rows in rows:
        for left, right, in_columns in columns:
            covering = tuple(
                tuple(index for index in look if index in in_rows and index in in_columns)
                for look in looks
            )
            yield Region(Box(top, left, bottom - top, right - left), covering)


def _starts(length: int, window: int, step: int) -> list[int]:
    count = max(length - window + step - 1, 0) // step + 1
    return [max(min(index * step, length - window), 0) for index in range(count)]


def _span(window: Window, axis: int, pixels: int) -> tuple[int, int]:
    """Return the first pixel of the result that is in a window, and the first behind it.

    The centre of pixel i is at (i + 1/2) * length / pixels; compared in whole numbers, for a pixel
    that fell between two windows by rounding would get no class.
    """
    box, length = window.box, window.shown_size[axis]
    edges = (box.top, box.bottom) if axis == 0 else (box.left, box.right)
    first, end = (-((length - 2 * edge * pixels) // (2 * length)) for edge in edges)
    return first, end


def _intervals(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, frozenset[int]]]:
    """Cut a line of pixels where a span begins or ends.

    Returns:
        The first pixel and the end of each interval, and the spans that hold it.
    """
    edges = sorted({edge for span in spans for edge in span})
    return [
        (low, high, frozenset(i for i, span in enumerate(spans) if span[0] <= low < span[1]))
        for low, high in pairwise(edges)
    ]
