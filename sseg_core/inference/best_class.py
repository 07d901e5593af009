"""The best class of each pixel, without scoring classes that cannot win.

The score of a class at a pixel is P_c = sum_q p(c | q) v_q, with weights that sum to 1. Over a
tile of 16 x 16 pixels, with v_q at most u_q and b_c the least of p(c | q) over the masks,

    P_c = b_c + sum_q (p(c | q) - b_c) v_q  <=  b_c + sum_q (p(c | q) - b_c) u_q = U_c.

A few favourites, the best classes at some pixels of the tile, are scored everywhere in it. A
class whose U_c is below what the favourites reach at each pixel of the tile wins nowhere, and is
left out. The bounds of all classes cost 1/256 of their scores. With b_c taken out they are tight
also where all p(c | q) are nearly equal, for then only the differences count.

Rounding: all terms are positive, so a computed sum of K of them is off by at most about K 2^-24
of itself; a class is left out only if it loses by more than all sums can be off. What is left are
pixels where two classes agree to float32's rounding: there any order of summation decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sseg_core.inference.mask_weights import TILE

_FEW = 32
"""Up to so many classes all are scored: finding out which need not be costs as much."""

_SCORES_AT_ONCE = 1 << 21
"""Floats of class scores held at once, 8 MiB: memory does not grow with the classes."""

_LOOK = (0, TILE - 1, TILE * (TILE // 2) + TILE // 2, TILE * (TILE - 1), TILE**2 - 1)
"""Pixels of a tile whose best classes are its favourites: the corners and the middle."""


class Ranking:
    """Tells the best class of pixels whose masks show the classes with given probabilities.

    Args:
        class_probabilities_CK: [C, K] float32 p(c | q) of K masks.
        prune: leave out classes that cannot win; default: where that is faster. A GPU computes
            all scores sooner than it tells which are needed.
    """

    def __init__(self, class_probabilities_CK: Tensor, *, prune: bool | None = None) -> None:
        self._index = _first_of_equals(class_probabilities_CK)
        self._classes_CK = class_probabilities_CK[self._index]
        self._least_C = self._classes_CK.amin(dim=1)
        self._above_KC = (self._classes_CK - self._least_C[:, None]).T.contiguous()
        if prune is None:
            prune = len(self._index) > _FEW and class_probabilities_CK.device.type == "cpu"
        self._prune = prune

    def best(self, weights_Krs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best class of each pixel and its score, of equal ones the first class.

        Args:
            weights_Krs: [K, r, s] float32 v, r and s multiples of `TILE`.

        Returns:
            [r, s] int64 and [r, s] float32.
        """
        if self._prune:
            classes, scores = self._best_of_tiles(_as_tiles(weights_Krs))
            shape = weights_Krs.shape[1:]
            classes, scores = _as_pixels(classes, shape), _as_pixels(scores, shape)
        else:
            step = max(1, _SCORES_AT_ONCE // len(self._classes_CK))
            parts = [
                (self._classes_CK @ part).max(dim=0)
                for part in torch.split(weights_Krs.flatten(1), step, dim=1)
            ]
            classes = torch.cat([part.indices for part in parts]).view(weights_Krs.shape[1:])
            scores = torch.cat([part.values for part in parts]).view(weights_Krs.shape[1:])
        return self._index[classes], scores

    def _best_of_tiles(self, tiles_TKP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best class and its score, [T, P], of the P pixels of T tiles."""
        favourites_TF = self._favourites(tiles_TKP)
        best_TP = torch.bmm(self._classes_CK[favourites_TF], tiles_TKP).max(dim=1)
        scores_TP, classes_TP = best_TP.values, favourites_TF.gather(1, best_TP.indices)
        margin = 8 * tiles_TKP.shape[1] * torch.finfo(torch.float32).eps
        needed_T = scores_TP.amin(dim=1) * (1 - margin)
        reach_TC = tiles_TKP.amax(dim=2) @ self._above_KC + self._least_C
        can_win_TC = (reach_TC >= needed_T[:, None]).scatter(1, favourites_TF, value=False)
        open_T = can_win_TC.any(dim=1).nonzero().flatten()
        # Favourites are scored again with the others, as one product gives equal pixels equal sums.
        rivals_TC = can_win_TC[open_T].scatter(1, favourites_TF[open_T], value=True)
        counts_T, order = rivals_TC.sum(dim=1).sort()
        counts = counts_T.tolist()
        start = 0
        while start < len(counts):
            # Tiles with about as many rivals go together, filled up to the most of them.
            most = counts[start] + counts[start] // 2
            limit = start + max(1, _SCORES_AT_ONCE // (most * TILE**2))
            end = start + 1
            while end < min(limit, len(counts)) and counts[end] <= most:
                end += 1
            members = order[start:end]
            tiles = open_T[members]
            classes_TP[tiles], scores_TP[tiles] = self._best_of_rivals(
                tiles_TKP[tiles], rivals_TC[members], counts[end - 1]
            )
            start = end
        return classes_TP, scores_TP

    def _favourites(self, tiles_TKP: Tensor) -> Tensor:
        """Return [T, F] the best classes at some pixels of each tile, ascending."""
        T, K, _ = tiles_TKP.shape
        look = torch.tensor(_LOOK, device=tiles_TKP.device)
        pixels_NK = tiles_TKP.index_select(2, look).transpose(1, 2).reshape(-1, K)
        best_N = (pixels_NK @ self._classes_CK.T).argmax(dim=1)
        return best_N.view(T, len(_LOOK)).sort(dim=1).values

    def _best_of_rivals(
        self, tiles_TKP: Tensor, rivals_TC: Tensor, most: int
    ) -> tuple[Tensor, Tensor]:
        """Score the rivals of each tile, at most `most`, and return the best, [T, P] each."""
        T, C = rivals_TC.shape
        if 2 * most > C:
            best_TP = torch.matmul(self._classes_CK, tiles_TKP).max(dim=1)
            return best_TP.indices, best_TP.values
        tile, rival = rivals_TC.nonzero(as_tuple=True)  # ascending, so that the first wins a tie
        counts_T = rivals_TC.sum(dim=1)
        place = torch.arange(len(tile), device=tile.device) - (counts_T.cumsum(0) - counts_T)[tile]
        listed_TM = rivals_TC.new_zeros((T, most), dtype=torch.int64)
        # Tiles with fewer rivals are filled up with the last of theirs.
        listed_TM[:] = rival[counts_T.cumsum(0) - 1][:, None]
        listed_TM[tile, place] = rival
        best_TP = torch.bmm(self._classes_CK[listed_TM], tiles_TKP).max(dim=1)
        return listed_TM.gather(1, best_TP.indices), best_TP.values


def _first_of_equals(class_probabilities_CK: Tensor) -> Tensor:
    """Return the indices of the classes that differ from all before them, ascending.

    Classes with the same p(c | q) tie at every pixel, where the first wins. Left to the scores,
    rounding could decide, for the order of summation may depend on the row of the matrix.
    """
    first: dict[bytes, int] = {}
    for index, row in enumerate(class_probabilities_CK.cpu().numpy()):
        first.setdefault(row.tobytes(), index)
    return torch.tensor(list(first.values()), device=class_probabilities_CK.device)


def _as_tiles(weights_Krs: Tensor) -> Tensor:
    """Return [T, K, TILE * TILE], from left to right and then down."""
    K, r, s = weights_Krs.shape
    squares = weights_Krs.view(K, r // TILE, TILE, s // TILE, TILE).permute(1, 3, 0, 2, 4)
    return squares.reshape(-1, K, TILE**2)


def _as_pixels(tiles_TP: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_as_tiles`: return [r, s]."""
    r, s = shape
    return tiles_TP.view(r // TILE, s // TILE, TILE, TILE).transpose(1, 2).reshape(r, s)
