"""Maps of many words on coarse grids of cells, interpolated to pixels block by block.

A block is small enough to stay in a core's cache, and maps of a thousand words at the size of a
large photo never exist. The words come last, so that those of a pixel lie side by side: the best
of them is then found several times faster than across the planes of a [W, H, W] tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sseg_core.inference.windows import Box, Region, regions

_FLOATS = {"cpu": 1 << 20, "gpu": 1 << 26}
"""In a block: 4 MiB on a CPU; more keeps a GPU busy."""

_SIDE = 64
"""Blocks are no longer: all cells of a block are weighted for each of its pixels."""


@dataclass(frozen=True, eq=False)
class CellMaps:
    """What was found out about the windows of an image.

    Attributes:
        values: [n, h, w, W] a value of each of W words for each cell of n windows.
        boxes: where the windows lie in the image as it was shown; they cover it.
        shown_size: height and width of that image.
        cell: pixels of that image per cell; the last cells of a window may stick out of it.
    """

    values: Tensor
    boxes: Sequence[Box]
    shown_size: tuple[int, int]
    cell: int

    def blocks(self, size: tuple[int, int]) -> Iterator[tuple[Box, Tensor]]:
        """Yield the mean over the windows of their values, interpolated bilinearly to pixels.

        Args:
            size: H, W of the result, to which the shown image is stretched in the same step.

        Returns:
            Boxes of the result, each pixel in one of them, with [r, x, W] values.
        """
        floats = _FLOATS.get(self.values.device.type, _FLOATS["gpu"])
        side = max(1, min(_SIDE, int((floats / self.values.shape[3]) ** 0.5)))
        for region in regions(self.boxes, self.shown_size, size):
            tops = range(region.box.top, region.box.bottom, side)
            lefts = range(region.box.left, region.box.right, side)
            columns = {left: self._lines(1, left, side, region, size) for left in lefts}
            for top in tops:
                rows = self._lines(0, top, side, region, size)
                for left in lefts:
                    block = sum(
                        _weighted(self.values[window], rows[window], columns[left][window])
                        for window in region.windows
                    )
                    assert isinstance(block, Tensor)
                    box = Box(top, left, block.shape[0], block.shape[1])
                    yield box, block / len(region.windows)

    def _lines(
        self, axis: int, first: int, side: int, region: Region, size: tuple[int, int]
    ) -> dict[int, _Line]:
        """Return the cells of some rows (axis 0) or columns for each window of a region."""
        end = min(first + side, (region.box.bottom, region.box.right)[axis])
        centres = torch.arange(first, end, dtype=torch.float64) + 0.5
        centres *= self.shown_size[axis] / size[axis]
        return {
            window: _Line.through(
                (centres - (self.boxes[window].top, self.boxes[window].left)[axis]) / self.cell,
                self.values.shape[1 + axis],
                self.values.device,
            )
            for window in region.windows
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
        first, end = int(low[0]), int(high[-1]) + 1
        weights = torch.zeros(len(centres), end - first)
        weights.scatter_add_(1, low[:, None] - first, 1 - share)
        weights.scatter_add_(1, high[:, None] - first, share)
        return cls(slice(first, end), weights.to(device))


def _weighted(values_hwW: Tensor, rows: _Line, columns: _Line) -> Tensor:
    """Return [r, x, W] the values at the crossings of two lines."""
    cells_kW = values_hwW[rows.cells, columns.cells].flatten(0, 1)
    weights = rows.weights[:, None, :, None] * columns.weights[None, :, None, :]
    block: Tensor = weights.flatten(2) @ cells_kW
    return block
