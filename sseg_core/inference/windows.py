"""Where the windows of an image lie, and which of them cover which pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


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
class Region:
    """Pixels of the result that the same windows cover.

    Attributes:
        box: in pixels of the result.
        windows: indices of the windows that cover all of it; they cover nothing of it in part.
    """

    box: Box
    windows: tuple[int, ...]


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


def regions(
    boxes: Sequence[Box], input_size: tuple[int, int], size: tuple[int, int]
) -> Iterator[Region]:
    """Cut the result into the largest boxes whose pixels are all in the same windows.

    A pixel of the result is in a window if its centre is.

    Args:
        boxes: windows, which together cover the input.
        input_size: height and width of the image that the windows are cut from.
        size: those of the result, to which that image is stretched.
    """
    rows = _intervals([(box.top, box.bottom) for box in boxes], input_size[0], size[0])
    columns = _intervals([(box.left, box.right) for box in boxes], input_size[1], size[1])
    for top, bottom, in_rows in rows:
        for left, right, in_columns in columns:
            covering = tuple(index for index in in_rows if index in in_columns)
            yield Region(Box(top, left, bottom - top, right - left), covering)


def _starts(length: int, window: int, step: int) -> list[int]:
    count = max(length - window + step - 1, 0) // step + 1
    return [max(min(index * step, length - window), 0) for index in range(count)]


def _intervals(
    spans: Sequence[tuple[int, int]], length: int, pixels: int
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Cut a line of pixels where a span begins or ends.

    The centre of pixel i is at (i + 1/2) * length / pixels; compared in whole numbers, for a pixel
    that fell between two intervals by rounding would get no class.

    Returns:
        The first pixel and the end of each interval, and the spans that hold it.
    """
    edges = sorted({edge for span in spans for edge in span})
    firsts = [-((length - 2 * edge * pixels) // (2 * length)) for edge in edges]
    intervals = []
    for index in range(len(edges) - 1):
        low, high = edges[index : index + 2]
        holding = (i for i, (start, end) in enumerate(spans) if start <= low and high <= end)
        if firsts[index] < firsts[index + 1]:
            intervals.append((firsts[index], firsts[index + 1], tuple(holding)))
    return intervals
