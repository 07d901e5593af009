"""From mask logits and class probabilities to a class for every pixel, in NumPy alone.

The counterpart of `combine.py` and `mask_weights.py`, where the formulas are explained: the same
scores to float32's rounding, also a block at a time, so that memory grows neither with the photo
nor with the number of masks, classes or windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sseg_core.inference.array_best_class import TILE, ArrayRanking
from sseg_core.inference.array_lines import Line, line_through
from sseg_core.inference.windows import Box, Region, Window, blend_weights, regions

_BLOCK = 1 << 17
"""Floats of mask weights in a block: 512 KiB, which stay in a core's cache."""

_FAR = 50.0
"""Below -_FAR a sigmoid equals exp to the last bit of float32; exp(-_FAR) does not underflow."""


@dataclass(frozen=True, eq=False)
class MaskArrays:
    """What the network made of a window of an image.

    Attributes:
        logits: [Q, h, w] float32 of the masks.
        class_probabilities: [Q, C] float32 p(c | q).
        window: where it lies in the image as the network saw it, without padding.
        stride: pixels of that image per cell; cell (i, j) covers the square of pixels that begins
            at (i * stride, j * stride) of the window, also where it sticks out of the box.
    """

    logits: npt.NDArray[np.float32]
    class_probabilities: npt.NDArray[np.float32]
    window: Window
    stride: int

    @cached_property
    def may_underflow(self) -> bool:
        """All sigmoids of a pixel may be 0; between cells no logit is lower than at any cell."""
        return bool(self.logits.min() < -_FAR)


@dataclass(frozen=True, eq=False)
class SeenWindows:
    """The masks of the windows of an image; those of each look cover it.

    Attributes:
        windows: their masks.
    """

    windows: Sequence[MaskArrays]

    def word_scores(
        self, size: tuple[int, int], words: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return [n, H, W] float32 the probability of n of the words at every pixel.

        Args:
            size: H, W of the result; the image is stretched to it.
            words: [n] their numbers.
        """
        scores = np.empty((len(words), *size), np.float32)
        for region in regions([masks.window for masks in self.windows], size):
            classes_nK = np.ascontiguousarray(self._class_probabilities(region)[:, words].T)
            for box, weights_Krs in self._blocks(region, size):
                place = slice(box.top, box.bottom), slice(box.left, box.right)
                scores[:, *place] = np.tensordot(classes_nK, weights_Krs, axes=1)
        return scores

    def best_words(
        self, size: tuple[int, int], takes_part: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Return the best word of every pixel and its probability, never holding all scores.

        Args:
            size: H, W of the result; the image is stretched to it.
            takes_part: [C] bool; the score of other words counts as 0.

        Returns:
            [H, W] index of the word, of equal ones the first, and [H, W] probability.
        """
        words, scores = np.empty(size, np.int16), np.empty(size, np.float32)
        for region in regions([masks.window for masks in self.windows], size):
            classes_KC = self._class_probabilities(region)
            ranking = ArrayRanking(classes_KC if takes_part is None else classes_KC * takes_part)
            for box, weights_Krs in self._blocks(region, size):
                place = slice(box.top, box.bottom), slice(box.left, box.right)
                words[place], scores[place] = ranking.best(weights_Krs)
        return words, scores

    def _class_probabilities(self, region: Region) -> npt.NDArray[np.float32]:
        """Return [K, C] float32, K being all masks of the windows of a region."""
        of_windows = [self.windows[index].class_probabilities for index in region.shares]
        return of_windows[0] if len(of_windows) == 1 else np.concatenate(of_windows)

    def _blocks(
        self, region: Region, size: tuple[int, int]
    ) -> Iterator[tuple[Box, npt.NDArray[np.float32]]]:
        """Yield a region in blocks: where a block lies, and v of its pixels, [K, r, s] float32."""
        windows = [self.windows[index] for index in region.shares]
        num_masks = sum(len(masks.logits) for masks in windows)
        step = TILE * max(1, _BLOCK // (num_masks * TILE**2))
        box = region.box
        all_columns = [
            np.arange(left, min(left + step, box.right))
            for left in range(box.left, box.right, step)
        ]
        lines_of_columns = [
            [_line(masks, 1, columns, size) for masks in windows] for columns in all_columns
        ]
        for top in range(box.top, box.bottom, TILE):
            rows = np.arange(top, min(top + TILE, box.bottom))
            lines_of_rows = [_line(masks, 0, rows, size) for masks in windows]
            for columns, lines in zip(all_columns, lines_of_columns, strict=True):
                weights_Krs = np.empty((num_masks, len(rows), len(columns)), np.float32)
                shares = self._shares(region, rows, columns, size)
                first = 0
                for masks, of_rows, of_columns, share in zip(
                    windows, lines_of_rows, lines, shares, strict=True
                ):
                    end = first + len(masks.logits)
                    _weights(masks, of_rows, of_columns, share, out=weights_Krs[first:end])
                    first = end
                yield Box(top, int(columns[0]), len(rows), len(columns)), weights_Krs

    def _shares(
        self,
        region: Region,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        size: tuple[int, int],
    ) -> Sequence[npt.NDArray[np.float32] | float]:
        """Return how much each window of a region counts at some pixels, all or each of them."""
        if not any(self.windows[index].window.tapers for index in region.shares):
            return [1 / n for n in region.shares.values()]
        places = [masks.window for masks in self.windows]
        return list(blend_weights(places, region, rows, columns, size))


def _line(
    masks: MaskArrays, axis: int, index: npt.NDArray[np.int64], size: tuple[int, int]
) -> Line:
    count = masks.logits.shape[1 + axis]
    return line_through(
        masks.window, axis, index, pixels=size[axis], cell=masks.stride, count=count
    )


def _weights(
    masks: MaskArrays,
    rows: Line,
    columns: Line,
    share: npt.NDArray[np.float32] | float,
    out: npt.NDArray[np.float32],
) -> None:
    """Write v times a share to `out`, [Q, r, s], of a window at crossings of rows and columns."""
    # Columns first, on the few rows of cells that take part.
    slab = masks.logits[:, rows.cells, columns.cells]
    stretched = slab.reshape(-1, slab.shape[2]) @ columns.weights.T
    np.matmul(rows.weights, stretched.reshape(*slab.shape[:2], -1), out=out)
    if masks.may_underflow:
        out -= np.minimum(out.max(axis=0) + np.float32(_FAR), 0)
    # In place, step by step: that is the sigmoid. A mask that is too far off for exp counts 0.
    np.negative(out, out=out)
    with np.errstate(over="ignore"):
        np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)
    out *= share / out.sum(axis=0)
