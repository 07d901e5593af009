"""Maps of many words on coarse grids of cells, interpolated to pixels block by block.

A block is small enough to stay in a core's cache, and maps of a thousand words at the size of a
large photo never exist. The words come last, so that those of a pixel lie side by side: the best
of them is then found several times faster than across the planes of a [W, H, W] tensor.

For networks that score cells: students of self-training, and rivals such as CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from sseg_core.inference.windows import Box, Region, Window, blend_weights, regions

_FLOATS = {"cpu": 1 << 20, "gpu": 1 << 26}
"""In a block: 4 MiB on a CPU; more keeps a GPU busy."""

_SIDE = 64
"""Blocks are no longer: all cells of a block, or of its rows, are weighted for each pixel."""

_FEW_CELLS = 400
"""Up to so many cells of a block are weighted in one product, which a row and a column after the
other would not beat."""


@dataclass(frozen=True, eq=False)
class CellMaps:
    """What was found out about the windows of an image.

    Attributes:
        values: [h, w, W] a value of each of W words for each cell, of each of n windows.
        windows: the n windows; those of each look cover the image.
        cell: pixels of the image as it was shown per cell; the last cells of a window may stick
            out of it.
    """

    values: Sequence[Tensor]
    windows: Sequence[Window]
    cell: int

    def blocks(
        self, size: tuple[int, int], of_window: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Box, Tensor]]:
        """Yield the mean over the windows of their values, interpolated bilinearly to pixels.

        The mean is weighted where windows taper.

        Args:
            size: H, W of the result, to which the shown image is stretched in the same step.
            of_window: what becomes of the [r, x, W] values of a window before the mean.

        Returns:
            Boxes of the result, each pixel in one of them, with [r, x, W] values.
        """
        floats = _FLOATS.get(self.values[0].device.type, _FLOATS["gpu"])
        side = max(1, min(_SIDE, int((floats / self.values[0].shape[2]) ** 0.5)))
        for region in regions(self.windows, size):
            tops = range(region.box.top, region.box.bottom, side)
            lefts = range(region.box.left, region.box.right, side)
            columns = {left: self._lines(1, left, side, region, size) for left in lefts}
            for top in tops:
                rows = self._lines(0, top, side, region, size)
                for left in lefts:
                    bottom, right = (
                        min(top + side, region.box.bottom),
                        min(left + side, region.box.right),
                    )
                    box = Box(top, left, bottom - top, right - left)
                    told = partial(self._told, rows, columns[left], of_window)
                    yield box, self._mean(told, region, box, size)

    def _told(
        self,
        rows: dict[int, _Line],
        columns: dict[int, _Line],
        of_window: Callable[[Tensor], Tensor] | None,
        index: int,
    ) -> Tensor:
        """Return [r, x, W] what a window by index tells of a block."""
        block: Tensor = _weighted(self.values[index], rows[index], columns[index])
        return block if of_window is None else of_window(block)

    def _mean(
        self, told: Callable[[int], Tensor], region: Region, box: Box, size: tuple[int, int]
    ) -> Tensor:
        """Return the mean over the windows of a region of what they tell of a block in it."""
        if any(self.windows[index].tapers for index in region.shares):
            rows, columns = np.arange(box.top, box.bottom), np.arange(box.left, box.right)
            weights_nrx = blend_weights(self.windows, region, rows, columns, size)
            shares = torch.from_numpy(weights_nrx[..., None]).to(self.values[0].device)
            pairs = zip(region.shares, shares, strict=True)
            weighted: Tensor = reduce(add, (told(index) * share for index, share in pairs))
            return weighted
        means = []
        for look in region.looks:
            total = reduce(add, map(told, look))
            means.append(total if len(look) == 1 else total / len(look))
        return means[0] if len(means) == 1 else reduce(add, means) / len(means)

    def _lines(
        self, axis: int, first: int, side: int, region: Region, size: tuple[int, int]
    ) -> dict[int, _Line]:
        """Return the cells of some rows (axis 0) or columns for each window of a region."""
        end = min(first + side, (region.box.bottom, region.box.right)[axis])
        index = np.arange(first, end)
        return {
            number: _Line.through(
                torch.from_numpy(
                    self.windows[number].positions(axis, index, size[axis]) / self.cell
                ),
                self.values[number].shape[axis],
                self.values[number].device,
            )
            for look in region.looks
            for number in look
        }


@dataclass(frozen=True, eq=False)
class _Line:
    """For m pixels of a line the weights of the cells around them.

    Attributes:
        cells: those that count for any of the pixels.
        weights: [m, k] of these k cells.
    """

    cells: slice
    weights: Tensor

    @classmethod
    def through(cls, centres: Tensor, count: int, device: torch.device) -> _Line:
        """Interpolate linearly at centres, in cells from the first cell's border, of `count`."""
        # The border cells reach to the border, as in torch's bilinear interpolation.
        position = (centres - 0.5).clamp(0, count - 1)
        low = position.floor().long()
        high = (low + 1).clamp(max=count - 1)
        share = (position - low).float()[:, None]
        first, end = int(low.min()), int(high.max()) + 1  # a mirrored window counts backwards
        weights = torch.zeros(len(centres), end - first)
        weights.scatter_add_(1, low[:, None] - first, 1 - share)
        weights.scatter_add_(1, high[:, None] - first, share)
        return cls(slice(first, end), weights.to(device))


def _weighted(values_hwW: Tensor, rows: _Line, columns: _Line) -> Tensor:
    """Return [r, x, W] the values at the crossings of two lines."""
    cells = values_hwW[rows.cells, columns.cells]
    block: Tensor
    if cells.shape[0] * cells.shape[1] <= _FEW_CELLS:
        weights = rows.weights[:, None, :, None] * columns.weights[None, :, None, :]
        block = weights.flatten(2) @ cells.flatten(0, 1)
    else:
        of_rows = rows.weights @ cells.flatten(1)
        block = columns.weights @ of_rows.view(-1, *cells.shape[1:])
    return block
