"""How much each mask counts at each pixel, for a photo of any size, a block at a time.

A mask counts with its sigmoid, and the weights of a pixel sum to 1 over the masks:

    v_q(y, x) = sigmoid(m_q(y, x)) / sum_q' sigmoid(m_q'(y, x))

Where n windows cover a pixel, their masks all count, each with v / n: the mean of the windows'
class probabilities is then one sum over all their masks, sum_q p(c | q) v_q / n. Where the image
was looked at several times, at several sizes or mirrored, n is such that all looks count the same.
Windows that taper have a share of their own at each pixel in the place of 1 / n.

Numerics: everything is computed in float32. Where every mask is far from a pixel, the sigmoids
of float32 are all 0 and the division would be 0 / 0. There sigmoid(m) equals exp(m), so adding
the same amount to all logits of the pixel leaves v unchanged; `_sigmoids` uses that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sseg_core.inference.windows import Box, Region, Window, blend_weights, regions

TILE = 16
"""Blocks are whole squares of this side, in pixels of the result."""

_BLOCK = 1 << 19
"""Floats of mask weights in a block: 2 MiB, which stay in a core's cache. So memory grows neither
with the photo nor with the number of windows."""

_FAR = 50.0
"""Below -_FAR a sigmoid equals exp to the last bit of float32; exp(-_FAR) does not underflow."""


@dataclass(frozen=True, eq=False)
class WindowMasks:
    """What the network made of a window of an image.

    Attributes:
        values: [Q, h, w] logits of the masks, or their weights where `are_weights`.
        class_probabilities: [Q, C] p(c | q).
        window: where it lies in the image as the network saw it, without padding.
        stride: pixels of that image per cell; cell (i, j) covers the square of pixels that begins
            at (i * stride, j * stride) of the window, also where it sticks out of the box.
        are_weights: the values are v, not logits.
    """

    values: Tensor
    class_probabilities: Tensor
    window: Window
    stride: int
    are_weights: bool = False
    may_underflow: bool = field(init=False)

    def __post_init__(self) -> None:
        # Between cells a maximum over the masks can be lower than at any cell, but no logit is. A
        # GPU would have to finish its work to tell.
        is_low = not self.are_weights and (
            self.values.device.type != "cpu" or bool((self.values < -_FAR).any())
        )
        object.__setattr__(self, "may_underflow", is_low)


@dataclass(frozen=True, eq=False)
class WeightedRegion:
    """A rectangle of the result whose pixels are all in the same windows.

    Attributes:
        box: the rectangle, in pixels of the result.
        class_probabilities: [C, K] float32, K being all masks of the windows.
    """

    box: Box
    class_probabilities: Tensor
    _all: Sequence[WindowMasks]
    _region: Region
    _size: tuple[int, int]

    def blocks(self) -> Iterator[tuple[Box, Tensor]]:
        """Yield the region in blocks: where a block lies, and the weights of its pixels.

        A block is at most `TILE` high. Its weights are [K, TILE, s] float32, s being its width
        rounded up to a multiple of `TILE`; the last row and column are repeated to fill them.
        """
        step = TILE * max(1, _BLOCK // (self.class_probabilities.shape[1] * TILE**2))
        # Made at once, for a GPU would have to finish its work before every copy.
        y_index = _whole_tiles(self.box.top, self.box.height)
        x_index = _whole_tiles(self.box.left, self.box.width)
        windows = [self._all[index] for index in self._region.shares]
        rows = [_rows_of_tiles(y_index, self._size[0], masks) for masks in windows]
        columns = [_Columns.at(x_index, self._size[1], masks) for masks in windows]
        for tile, y in enumerate(range(0, self.box.height, TILE)):
            shares = self._shares(y_index[y : y + TILE], x_index)
            for x in range(0, self.box.width, step):
                parts = [
                    _weights(masks, of_tiles[tile], of_all.part(x, step))
                    for masks, of_tiles, of_all in zip(windows, rows, columns, strict=True)
                ]
                for part, share in zip(parts, shares, strict=True):
                    if isinstance(share, Tensor):
                        part.mul_(share[:, x : x + step])
                    elif share != 1:
                        part.div_(share)
                height, width = min(TILE, self.box.height - y), min(step, self.box.width - x)
                yield (
                    Box(self.box.top + y, self.box.left + x, height, width),
                    parts[0] if len(parts) == 1 else torch.cat(parts),
                )

    def _shares(
        self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
    ) -> Sequence[int | Tensor]:
        """Return for each window the n whose 1 / n it counts, or [r, s] how much it counts."""
        if not any(self._all[index].window.tapers for index in self._region.shares):
            return list(self._region.shares.values())
        windows = [masks.window for masks in self._all]
        weights = blend_weights(windows, self._region, rows, columns, self._size)
        return list(torch.from_numpy(weights).to(self.class_probabilities.device))


def weighted_regions(
    windows: Sequence[WindowMasks], size: tuple[int, int]
) -> Iterator[WeightedRegion]:
    """Yield the regions of the result; every pixel is in one of them.

    Args:
        windows: of one image; those of each look cover it.
        size: H, W of the result, to which the image is stretched.
    """
    for region in regions([masks.window for masks in windows], size):
        of_masks = [windows[index].class_probabilities.float().T for index in region.shares]
        # In memory as [C, K], where the row of a class is read at a stretch.
        together = torch.cat(of_masks, dim=1).contiguous()
        yield WeightedRegion(region.box, together, windows, region, size)


def cell_weights(window: WindowMasks) -> Tensor:
    """Return v, [Q, h, w] float32, at the cells of a window's own grid."""
    if window.are_weights:
        return window.values
    weights = _sigmoids(window.values.float().clone(), guarded=window.may_underflow)
    return weights.div_(weights.sum(dim=0))


def _whole_tiles(first: int, pixels: int) -> npt.NDArray[np.int64]:
    """Return the indices of pixels in a line; the last again to fill a tile."""
    index = np.arange(-(-pixels // TILE) * TILE)
    return np.minimum(index, pixels - 1) + first


def _cells(
    positions: npt.NDArray[np.float64], stride: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the two cells around each position, and the way from the one to the other.

    The border cells reach to the border, as in torch's bilinear interpolation.
    """
    position = (positions / stride - 0.5).clip(0, count - 1)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, count - 1), (position - low).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Rows:
    """How rows of pixels are made of rows of cells, from `first` up to `end`.

    Attributes:
        mixture: [TILE, end - first] float32, rows summing to 1. As a matrix product the rows are
            ten times as fast as by index; few rows of cells take part.
    """

    first: int
    end: int
    mixture: Tensor


def _rows_of_tiles(index: npt.NDArray[np.int64], pixels: int, masks: WindowMasks) -> list[_Rows]:
    """Return the rows of each tile, from the top down."""
    positions = masks.window.positions(0, index, pixels)
    low, high, way = (
        part.reshape(-1, TILE) for part in _cells(positions, masks.stride, masks.values.shape[1])
    )
    spans = [
        (int(first), int(last) + 1) for first, last in zip(low[:, 0], high[:, -1], strict=True)
    ]
    mixtures = []
    line = np.arange(TILE)
    for tile, (first, end) in enumerate(spans):
        mixture = np.zeros((TILE, end - first), np.float32)
        mixture[line, low[tile] - first] = 1 - way[tile]
        mixture[line, high[tile] - first] += way[tile]
        mixtures.append(mixture)
    together = torch.from_numpy(np.concatenate(mixtures, axis=1)).to(masks.values.device)
    parts = torch.split(together, [end - first for first, end in spans], dim=1)
    return [_Rows(*span, part) for span, part in zip(spans, parts, strict=True)]


@dataclass(frozen=True, eq=False)
class _Columns:
    """For each column of pixels the two columns of cells around it, and the way between them."""

    low: Tensor
    high: Tensor
    way: Tensor

    @classmethod
    def at(cls, index: npt.NDArray[np.int64], pixels: int, masks: WindowMasks) -> _Columns:
        positions = masks.window.positions(1, index, pixels)
        cells = _cells(positions, masks.stride, masks.values.shape[2])
        return cls(*(torch.from_numpy(array).to(masks.values.device) for array in cells))

    def part(self, start: int, length: int) -> _Columns:
        """Return some of the columns, fewer where they end."""
        part = slice(start, start + length)
        return _Columns(self.low[part], self.high[part], self.way[part])


def _weights(masks: WindowMasks, rows: _Rows, columns: _Columns) -> Tensor:
    """Return v, [Q, TILE, s] float32, of a window at the crossings of rows and columns."""
    slab = masks.values[:, rows.first : rows.end].float()
    # Columns first, on the few rows of cells that take part. `gather` is the fastest of torch's
    # ways to index the last dimension, by far.
    shape = (*slab.shape[:2], len(columns.low))
    slab = torch.lerp(
        slab.gather(2, columns.low.expand(shape)),
        slab.gather(2, columns.high.expand(shape)),
        columns.way,
    )
    values = torch.matmul(rows.mixture, slab)
    if not masks.are_weights:
        values = _sigmoids(values, guarded=masks.may_underflow)
    return values.div_(values.sum(dim=0))


def _sigmoids(logits_Qrs: Tensor, *, guarded: bool) -> Tensor:
    """Return sigmoid(m), times a factor common to the masks of a pixel if guarded; in place."""
    if guarded:
        logits_Qrs.sub_((logits_Qrs.amax(dim=0) + _FAR).clamp_(max=0))
    return logits_Qrs.sigmoid_()
