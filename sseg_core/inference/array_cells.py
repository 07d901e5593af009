"""From logits of classes on a coarse grid of cells to a class for every pixel, in NumPy alone.

The counterpart of `cell_maps.py`, for exported students of self-training: logits are interpolated
to pixels, then become probabilities, then their mean over the windows is taken. A block at a time,
for probabilities of a thousand classes at the size of a large photo would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sseg_core.inference.array_lines import Line, line_through
from sseg_core.inference.windows import Box, Region, Window, blend_weights, regions

_BLOCK = 1 << 17
"""Floats of scores in a block: 512 KiB, which stay in a core's cache."""

_SIDE = 64
"""Blocks are no longer: all cells of a block's rows are weighted for each of its rows."""


@dataclass(frozen=True, eq=False)
class SeenCells:
    """The logits of the windows of an image.

    Attributes:
        logits: [h, w, C] float32 of each of n windows.
        windows: the n windows; those of each look cover the image.
        cell: pixels of the image as it was shown per cell; the last cells of a window may stick
            out of it.
    """

    logits: Sequence[npt.NDArray[np.float32]]
    windows: Sequence[Window]
    cell: int

    def word_scores(
        self, size: tuple[int, int], words: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return [n, H, W] float32 the probability of n of the classes at every pixel.

        Args:
            size: H, W of the result; the image is stretched to it.
            words: [n] numbers of the classes.
        """
        scores = np.empty((len(words), *size), np.float32)
        for box, scores_rsC in self._blocks(size):
            place = slice(box.top, box.bottom), slice(box.left, box.right)
            scores[:, *place] = scores_rsC[..., words].transpose(2, 0, 1)
        return scores

    def best_words(
        self, size: tuple[int, int], takes_part: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Return the best class of every pixel and its probability, never holding all of them.

        Args:
            size: H, W of the result; the image is stretched to it.
            takes_part: [C] bool; the score of other classes counts as 0.

        Returns:
            [H, W] index of the class, of equal ones the first, and [H, W] probability.
        """
        words, scores = np.empty(size, np.int16), np.empty(size, np.float32)
        for box, scores_rsC in self._blocks(size):
            counted = scores_rsC if takes_part is None else scores_rsC * takes_part
            best = counted.argmax(axis=2)
            place = slice(box.top, box.bottom), slice(box.left, box.right)
            words[place] = best
            scores[place] = np.take_along_axis(counted, best[..., None], axis=2)[..., 0]
        return words, scores

    def _blocks(self, size: tuple[int, int]) -> Iterator[tuple[Box, npt.NDArray[np.float32]]]:
        """Yield boxes of the result, each pixel in one of them, with [r, s, C] probabilities."""
        side = max(1, min(_SIDE, int((_BLOCK / self.logits[0].shape[2]) ** 0.5)))
        for region in regions(self.windows, size):
            box = region.box
            all_columns = [
                np.arange(left, min(left + side, box.right))
                for left in range(box.left, box.right, side)
            ]
            lines_of_columns = [
                [self._line(number, 1, columns, size) for number in region.shares]
                for columns in all_columns
            ]
            for top in range(box.top, box.bottom, side):
                rows = np.arange(top, min(top + side, box.bottom))
                of_rows = [self._line(number, 0, rows, size) for number in region.shares]
                for columns, of_columns in zip(all_columns, lines_of_columns, strict=True):
                    shares = self._shares(region, rows, columns, size)
                    told = [
                        _softmax(_weighted(self.logits[number], *crossing), share)
                        for number, *crossing, share in zip(
                            region.shares, of_rows, of_columns, shares, strict=True
                        )
                    ]
                    for other in told[1:]:
                        told[0] += other
                    yield Box(top, int(columns[0]), len(rows), len(columns)), told[0]

    def _line(
        self, number: int, axis: int, index: npt.NDArray[np.int64], size: tuple[int, int]
    ) -> Line:
        count = self.logits[number].shape[axis]
        return line_through(
            self.windows[number], axis, index, pixels=size[axis], cell=self.cell, count=count
        )

    def _shares(
        self,
        region: Region,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        size: tuple[int, int],
    ) -> Sequence[npt.NDArray[np.float32] | float]:
        """Return how much each window of a region counts at some pixels, all or each of them."""
        if not any(self.windows[index].tapers for index in region.shares):
            return [1 / n for n in region.shares.values()]
        return list(blend_weights(self.windows, region, rows, columns, size)[..., None])


def _weighted(
    logits_hwC: npt.NDArray[np.float32], rows: Line, columns: Line
) -> npt.NDArray[np.float32]:
    """Return [r, s, C] the logits at the crossings of rows and columns."""
    cells = logits_hwC[rows.cells, columns.cells]
    of_rows = rows.weights @ cells.reshape(len(cells), -1)
    return columns.weights @ of_rows.reshape(-1, *cells.shape[1:])


def _softmax(
    logits_rsC: npt.NDArray[np.float32], share: npt.NDArray[np.float32] | float
) -> npt.NDArray[np.float32]:
    """Return the probabilities of the classes times a share; in place."""
    logits_rsC -= logits_rsC.max(axis=2, keepdims=True)
    np.exp(logits_rsC, out=logits_rsC)
    logits_rsC *= share / logits_rsC.sum(axis=2, keepdims=True)
    return logits_rsC
