"""The best class of each pixel in NumPy, without scoring classes that cannot win.

The counterpart of `best_class.py`, where the bound is derived. Here a class is left out of a whole
block, if it can win in none of its tiles: then everything is a few large matrix products.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TILE = 16
"""Side in pixels of the squares over which scores are bounded, and height of a block."""

_FEW = 32
"""Up to so many classes all are scored: finding out which need not be costs as much."""

_SCORES_AT_ONCE = 1 << 19
"""Floats of class scores held at once, 2 MiB: they stay in a core's cache until they are ranked."""


class ArrayRanking:
    """Tells the best class of pixels whose masks show the classes with given probabilities.

    Args:
        class_probabilities_KC: [K, C] float32 p(c | q) of K masks.
        prune: leave out classes that cannot win; default: where that is faster.
    """

    def __init__(
        self, class_probabilities_KC: npt.NDArray[np.float32], *, prune: bool | None = None
    ) -> None:
        self._index = _first_of_equals(class_probabilities_KC)
        self._classes_KC = np.ascontiguousarray(class_probabilities_KC[:, self._index])
        self._least_C = self._classes_KC.min(axis=0)
        self._above_KC = self._classes_KC - self._least_C
        self._prune = len(self._index) > _FEW if prune is None else prune

    def best(
        self, weights_Krs: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the best class of each pixel and its score, of equal ones the first class.

        Args:
            weights_Krs: [K, r, s] float32 v, with a sum of 1 for each pixel; r at most `TILE`.

        Returns:
            [r, s] int64 and [r, s] float32.
        """
        shape = weights_Krs.shape[1:]
        weights_PK = weights_Krs.reshape(len(weights_Krs), -1).T
        if not self._prune:
            best, scores = _best(weights_PK, self._classes_KC)
            return self._index[best].reshape(shape), scores.reshape(shape)
        favourites = self._favourites(weights_Krs)
        best, scores = _best(weights_PK, self._classes_KC[:, favourites])
        rivals = self._rivals(weights_Krs, favourites, scores.reshape(shape))
        if len(rivals) > len(favourites):
            # Favourites are scored again with the others: one product gives equal pixels equal
            # sums.
            favourites = rivals
            best, scores = _best(weights_PK, self._classes_KC[:, favourites])
        return self._index[favourites[best]].reshape(shape), scores.reshape(shape)

    def _favourites(self, weights_Krs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the best classes at the corners and in the middle of each tile, ascending."""
        rows = np.unique([0, weights_Krs.shape[1] // 2, weights_Krs.shape[1] - 1])
        columns = np.unique([*range(0, weights_Krs.shape[2], TILE // 2), weights_Krs.shape[2] - 1])
        looked_at = weights_Krs[:, rows[:, None], columns].reshape(len(weights_Krs), -1)
        return np.unique((looked_at.T @ self._classes_KC).argmax(axis=1))

    def _rivals(
        self,
        weights_Krs: npt.NDArray[np.float32],
        favourites: npt.NDArray[np.int64],
        scores_rs: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.int64]:
        """Return the favourites and all classes that may beat them somewhere, ascending."""
        starts = np.arange(0, weights_Krs.shape[2], TILE)
        most_KT = np.maximum.reduceat(weights_Krs.max(axis=1), starts, axis=1)
        needed_T = np.minimum.reduceat(scores_rs.min(axis=0), starts)
        margin = 8 * len(weights_Krs) * np.finfo(np.float32).eps
        reach_TC = most_KT.T @ self._above_KC + self._least_C
        can_win_C = (reach_TC >= needed_T[:, None] * np.float32(1 - margin)).any(axis=0)
        can_win_C[favourites] = True
        return np.nonzero(can_win_C)[0]


def _best(
    weights_PK: npt.NDArray[np.float32], classes_KC: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the best class of each of P pixels, the first of equals, and its score."""
    best = np.empty(len(weights_PK), np.int64)
    scores = np.empty(len(weights_PK), np.float32)
    step = max(1, _SCORES_AT_ONCE // classes_KC.shape[1])
    for first in range(0, len(weights_PK), step):
        some = slice(first, first + step)
        scores_PC = weights_PK[some] @ classes_KC
        best[some] = scores_PC.argmax(axis=1)
        scores[some] = np.take_along_axis(scores_PC, best[some, None], axis=1)[:, 0]
    return best, scores


def _first_of_equals(class_probabilities_KC: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the indices of the classes that differ from all before them, ascending.

    Classes with the same p(c | q) tie at every pixel, where the first wins. Left to the scores,
    rounding could decide.
    """
    first: dict[bytes, int] = {}
    for index, row in enumerate(np.ascontiguousarray(class_probabilities_KC.T)):
        first.setdefault(row.tobytes(), index)
    return np.array(list(first.values()))
