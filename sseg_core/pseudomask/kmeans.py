"""K-means of many images at once: k-means++ seeding, then Lloyd's iterations.

Every image is a problem of its own, solved the same way whatever else is in the batch. Shapes: B
images, N tokens in an image, F features of a token, K clusters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_CACHE_BYTES = 4 * 2**20  # of tokens at once on a CPU


@dataclass(frozen=True)
class KMeansResult:
    """Clusterings of a batch.

    Attributes:
        labels: [B, N] uint8 cluster of each token, the nearest of `centres`.
        centres: [B, K, F] fp32.
        inertia: [B] fp32 sum of squared distances of the tokens to their centres.
    """

    labels: Tensor
    centres: Tensor
    inertia: Tensor


def key_seed(key: str, seed: int) -> int:
    """Return the seed of one sample: the same on every machine, whatever its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")


@torch.no_grad()
def kmeans(tokens_BNF: Tensor, k: int, seeds: Sequence[int], iterations: int) -> KMeansResult:
    """Cluster the tokens of each image into `k` clusters.

    A cluster that loses all its tokens starts anew at the token that lies farthest from its
    centre. Where an image has fewer than `k` distinct tokens, some labels stay unused.

    Args:
        tokens_BNF: [B, N, F] float; distances are taken in fp32.
        k: number of clusters, at most 255.
        seeds: one seed per image, for the draws of k-means++.
        iterations: largest number of Lloyd iterations; it ends earlier once no token changes.
    """
    size = len(tokens_BNF)
    if tokens_BNF.device.type == "cpu":
        # Each iteration reads all tokens twice; from the cache that is several times faster.
        size = max(1, _CACHE_BYTES // (4 * tokens_BNF[0].numel()))
    parts = [
        _cluster(tokens_BNF[begin : begin + size], k, seeds[begin : begin + size], iterations)
        for begin in range(0, len(tokens_BNF), size)
    ]
    return KMeansResult(
        labels=torch.cat([part.labels for part in parts]),
        centres=torch.cat([part.centres for part in parts]),
        inertia=torch.cat([part.inertia for part in parts]),
    )


def _cluster(tokens_BNF: Tensor, k: int, seeds: Sequence[int], iterations: int) -> KMeansResult:
    # Distances do not depend on the origin, and are more accurate in fp32 near it.
    mean_B1F = tokens_BNF.float().mean(1, keepdim=True)
    tokens = tokens_BNF.float() - mean_B1F
    squares_BN = tokens.square().sum(2)
    centres = _seed_centres(tokens, squares_BN, k, seeds)
    labels, distances = _assign(tokens, squares_BN, centres)
    for _ in range(iterations):
        centres = _means(tokens, labels, distances, k)
        previous = labels
        labels, distances = _assign(tokens, squares_BN, centres)
        if torch.equal(labels, previous):
            break
    return KMeansResult(labels.to(torch.uint8), centres + mean_B1F, distances.sum(1))


def _seed_centres(tokens: Tensor, squares_BN: Tensor, k: int, seeds: Sequence[int]) -> Tensor:
    """Return [B, K, F] tokens drawn by greedy k-means++, as scikit-learn does it.

    Of a few candidates, each drawn with a probability proportional to its squared distance from
    the nearest centre, the one that lowers the sum of these distances most becomes a centre.
    """
    B, N, F = tokens.shape
    trials = 2 + int(math.log(k))
    draws = np.stack([np.random.default_rng(seed).random((k, trials)) for seed in seeds])
    draws_KBT = torch.from_numpy(draws).transpose(0, 1).to(tokens.device)
    nearest_BN = torch.ones_like(squares_BN)  # the first centre is any token
    chosen = []
    for step, draw_BT in enumerate(draws_KBT):
        # In fp64, so that the sums do not depend on the order in which a device adds.
        mass_BN = nearest_BN.double().cumsum(1)
        candidates_BT = torch.searchsorted(mass_BN, draw_BT * mass_BN[:, -1:], right=True)
        candidates_BT = candidates_BT.clamp(max=N - 1)  # all distances are 0
        if step == 0:
            candidates_BT = candidates_BT[:, :1]
        centres_BTF = tokens.gather(1, candidates_BT[:, :, None].expand(-1, -1, F))
        lowered_BTN = _relative_distances(tokens, centres_BTF) + squares_BN[:, None]
        lowered_BTN.clamp_(min=0)
        if step > 0:
            lowered_BTN = torch.minimum(lowered_BTN, nearest_BN[:, None])
        best_B = lowered_BTN.sum(2).argmin(1)
        image = torch.arange(B, device=tokens.device)
        nearest_BN = lowered_BTN[image, best_B]
        chosen.append(centres_BTF[image, best_B])
    return torch.stack(chosen, dim=1)


def _relative_distances(tokens: Tensor, centres: Tensor) -> Tensor:
    """Return [B, K, N] squared distances less the square of the token: the order is the same."""
    lengths_BK1 = centres.square().sum(2, keepdim=True)
    return torch.baddbmm(lengths_BK1, centres, tokens.transpose(1, 2), alpha=-2)


def _assign(tokens: Tensor, squares_BN: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return [B, N] the nearest centre of each token, and its squared distance."""
    relative_BN, labels_BN = _relative_distances(tokens, centres).min(1)
    return labels_BN, (relative_BN + squares_BN).clamp(min=0)


def _means(tokens: Tensor, labels: Tensor, distances: Tensor, k: int) -> Tensor:
    """Return [B, K, F] the mean of each cluster, or a far token for one that is empty."""
    members_BKN = (labels[:, None] == torch.arange(k, device=labels.device)[:, None]).float()
    counts_BK = members_BKN.sum(2)
    means = torch.bmm(members_BKN, tokens) / counts_BK.clamp(min=1)[:, :, None]
    empty_BK = counts_BK == 0
    if not empty_BK.any():
        return means
    # The first empty cluster takes the farthest token, the second the next, and so on.
    farthest = distances.topk(min(k, labels.shape[1])).indices
    place_BK = (empty_BK.cumsum(1) - 1).clamp(min=0, max=farthest.shape[1] - 1)
    token_BK = farthest.gather(1, place_BK)
    far = tokens.gather(1, token_BK[:, :, None].expand(-1, -1, tokens.shape[2]))
    return torch.where(empty_BK[:, :, None], far, means)
