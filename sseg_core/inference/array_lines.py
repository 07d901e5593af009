"""How lines of pixels are made of lines of cells, as small matrices of weights.

Bilinear interpolation is one product from the left and one from the right: rows @ cells @ columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sseg_core.inference.windows import Window


@dataclass(frozen=True, eq=False)
class Line:
    """For n rows or columns of pixels the weights of the cells around them.

    Attributes:
        cells: those that count for any of the pixels.
        weights: [n, k] float32 of these k cells, with a sum of 1 for each pixel.
    """

    cells: slice
    weights: npt.NDArray[np.float32]


def line_through(
    window: Window, axis: int, index: npt.NDArray[np.integer], *, pixels: int, cell: int, count: int
) -> Line:
    """Interpolate linearly between the cells of a window.

    The border cells reach to the border, as in torch's bilinear interpolation.

    Args:
        window: that the cells are of.
        axis: 0 for rows, 1 for columns.
        index: of n pixels of the result, at least one.
        pixels: height or width of the result, to which the image is stretched.
        cell: pixels of the image as it was shown per cell.
        count: number of cells of the window along the axis.
    """
    place = (window.positions(axis, index, pixels) / cell - 0.5).clip(0, count - 1)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    way = (place - low).astype(np.float32)
    first, end = int(low.min()), int(high.max()) + 1  # a mirrored window counts backwards
    weights = np.zeros((len(index), end - first), np.float32)
    number = np.arange(len(index))
    weights[number, low - first] = 1 - way
    weights[number, high - first] += way  # at the border low and high are one cell
    return Line(slice(first, end), weights)
