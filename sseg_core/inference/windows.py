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

_LEAST = 1e-6
"""Of a ramp: a pixel on the very border of its only window still gets what that window tells."""


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
        tapers: the window counts less towards its borders, see `ramp`.
    """

    box: Box
    shown_size: tuple[int, int]
    mirrored: bool = False
    look: int = 0
    tapers: bool = False

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

    def ramp(
        self, axis: int, index: npt.NDArray[np.integer], pixels: int
    ) -> npt.NDArray[np.float32]:
        """Return how much the window counts at rows or columns of the result.

        That is 1 in its middle, and falls linearly towards borders that lie inside the image, to
        almost 0: where windows overlap, one fades into the other (our choice, not in the paper).
        At the border of the image nothing falls. Windows that do not taper count 1 everywhere.

        The arguments are those of `positions`; the pixels must be in the window.

        Returns:
            As many numbers in (0, 1].
        """
        if not self.tapers:
            return np.ones(len(index), np.float32)
        first, length = ((self.box.top, self.box.height), (self.box.left, self.box.width))[axis]
        centres = (index.astype(np.float64) + 0.5) * (self.shown_size[axis] / pixels) - first
        ramp = np.ones(len(index))
        if first > 0:
            ramp = np.minimum(ramp, 2 * centres / length)
        if first + length < self.shown_size[axis]:
            ramp = np.minimum(ramp, 2 * (length - centres) / length)
        return np.maximum(ramp, _LEAST).astype(np.float32)


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
        """For each window by index the n whose 1 / n it counts: all looks count the same.

        So it is where windows do not taper; `blend_weights` tells how much one that does counts.
        """
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


def blend_weights(
    windows: Sequence[Window],
    region: Region,
    rows: npt.NDArray[np.integer],
    columns: npt.NDArray[np.integer],
    size: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """Return how much each window of a region counts at some of its pixels.

    A window counts with its ramps, divided by their sum over the windows of its look; all looks
    count the same. Windows that do not taper count 1 / n, see `Region.shares`.

    Args:
        windows: all of the image.
        region: of `regions`.
        rows: r of its rows, as indices of pixels of the result.
        columns: s of its columns.
        size: height and width of the result.

    Returns:
        [n, r, s] of the region's n windows, in the order of `Region.shares`, with a sum of 1.
    """
    of_looks = []
    for look in region.looks:
        of_rows = np.stack([windows[index].ramp(0, rows, size[0]) for index in look])
        of_columns = np.stack([windows[index].ramp(1, columns, size[1]) for index in look])
        weights = of_rows[:, :, None] * of_columns[:, None, :]
        of_looks.append(weights / (weights.sum(axis=0) * len(region.looks)))
    return np.concatenate(of_looks)


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
