"""K-means of many images at once: a start from a sample, then Lloyd's iterations on all tokens.

Every image is a problem of its own, solved the same way whatever else is in the batch. Shapes: B
images, N tokens in an image, F features of a token, K clusters, M tokens in the sample.

Reading all tokens is what takes the time, so most of the work is done on the inner products of a
sample of them: there, a candidate of k-means++ costs one row, and an iteration one small product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_CACHE_BYTES = 10 * 2**20  # of tokens at once on a CPU
# Our choices, not in the paper. With fewer tokens or candidates the inertia grows by a percent.
_SAMPLE, _SAMPLE_PER_CLUSTER = 256, 32
_CANDIDATES = 16
_CHECK_EVERY = 4  # iterations; a GPU has to be waited for to know whether labels still change


@dataclass(frozen=True)
class KMeansResult:
    """Clusterings of a batch.

    Attributes:
        labels: [B, N] uint8 cluster of each token, the nearest of `centres`.
        centres: [B, K, F] fp32; of length 1 if the metric is cosine.
        inertia: [B] fp32 sum of squared distances of the tokens to their centres; if the metric
            is cosine, of the tokens at length 1: twice the sum of 1 - cosine.
    """

    labels: Tensor
    centres: Tensor
    inertia: Tensor


def key_seed(key: str, seed: int) -> int:
    """Return the seed of one sample: the same on every machine, whatever its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")


@torch.no_grad()
def kmeans(
    tokens_BNF: Tensor,
    k: int,
    seeds: Sequence[int],
    iterations: int,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> KMeansResult:
    """Cluster the tokens of each image into `k` clusters.

    A cluster that loses all its tokens starts anew at the token that lies farthest from its
    centre. Where an image has fewer than `k` distinct tokens, some labels stay unused.

    Args:
        tokens_BNF: [B, N, F] float; distances are taken in fp32.
        k: number of clusters, at most 255.
        seeds: one seed per image, for the draws of k-means++.
        iterations: largest number of Lloyd iterations; at most half of them see the sample only,
            at most an eighth (and one at least) all tokens. It ends earlier once no token changes.
        metric: `cosine` compares directions (spherical k-means): tokens and centres have length
            1, but for a token of zeros, which stays zero and is as far from every centre.
    """
    # Each iteration reads all tokens twice; from the cache that is several times faster.
    on_cpu = tokens_BNF.device.type == "cpu"
    size = max(1, _CACHE_BYTES // (4 * tokens_BNF[0].numel())) if on_cpu else len(tokens_BNF)
    # One buffer for all pieces: new memory costs more than the arithmetic that fills it.
    buffer = tokens_BNF.new_empty((size, *tokens_BNF.shape[1:]), dtype=torch.float32)
    draws = np.stack([np.random.default_rng(seed).random((k, _CANDIDATES)) for seed in seeds])
    draws_BKT = torch.from_numpy(draws).to(tokens_BNF.device)
    pieces = [slice(begin, begin + size) for begin in range(0, len(tokens_BNF), size)]
    parts = [
        _cluster(
            tokens_BNF[piece],
            k,
            draws_BKT[piece],
            iterations,
            on_sphere=metric == "cosine",
            buffer=buffer[: len(tokens_BNF[piece])],
        )
        for piece in pieces
    ]
    return KMeansResult(
        labels=torch.cat([part.labels for part in parts]),
        centres=torch.cat([part.centres for part in parts]),
        inertia=torch.cat([part.inertia for part in parts]),
    )


def _cluster(
    tokens_BNF: Tensor,
    k: int,
    draws_BKT: Tensor,
    iterations: int,
    *,
    on_sphere: bool,
    buffer: Tensor,
) -> KMeansResult:
    if on_sphere:
        tokens_BNF = F.normalize(tokens_BNF.float(), dim=2)
    # Distances do not depend on the origin, and are more accurate near it.
    mean_B1F = tokens_BNF.mean(1, keepdim=True, dtype=torch.float32)
    tokens = torch.sub(tokens_BNF, mean_B1F, out=buffer)
    squares_BN = torch.linalg.vector_norm(tokens, dim=2).square()

    def on_the_sphere(centres_BKF: Tensor) -> Tensor:
        """Return the centres at length 1, as seen from the origin of the given tokens."""
        return F.normalize(centres_BKF + mean_B1F, dim=2) - mean_B1F

    centres = _centres_of_sample(tokens, k, draws_BKT, iterations // 2)
    if on_sphere:
        centres = on_the_sphere(centres)
    relative_BN, labels_BN = _nearest(tokens, centres)
    for step in range(max(1, iterations // 8)):
        centres = _means(tokens, labels_BN, relative_BN + squares_BN, k)
        if on_sphere:
            centres = on_the_sphere(centres)
        previous_BN = labels_BN
        relative_BN, labels_BN = _nearest(tokens, centres)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 and torch.equal(labels_BN, previous_BN):
            break
    inertia_B = (relative_BN + squares_BN).clamp(min=0).sum(1)
    return KMeansResult(labels_BN.to(torch.uint8), centres + mean_B1F, inertia_B)


def _centres_of_sample(tokens: Tensor, k: int, draws_BKT: Tensor, iterations: int) -> Tensor:
    """Return [B, K, F] the centres of a clustering of some of the tokens.

    A centre is kept as the weights of the tokens whose mean it is, so that all distances come
    from the inner products of the tokens: |x - w X|^2 = x x - 2 (w X) x + (w X) (w X).
    """
    N = tokens.shape[1]
    M = min(N, max(_SAMPLE, _SAMPLE_PER_CLUSTER * k))
    sample = tokens.index_select(1, torch.arange(M, device=tokens.device) * N // M)
    rounded = sample.to(_dtype_of_products(tokens.device))
    products_BMM = torch.bmm(rounded, rounded.transpose(1, 2))
    squares_BM = products_BMM.diagonal(dim1=1, dim2=2).float()
    chosen_BK = _seed(products_BMM, squares_BM, draws_BKT)
    weights = F.one_hot(chosen_BK, M).float()
    relative_BM, labels_BM = _nearest_weighted(products_BMM, weights)
    for step in range(iterations):
        members = _members(labels_BM, k).float()
        counts_BK1 = members.sum(2, keepdim=True)
        farthest = F.one_hot((relative_BM + squares_BM).argmax(1), M).float()
        weights = torch.where(counts_BK1 == 0, farthest[:, None], members / counts_BK1.clamp(min=1))
        previous_BM = labels_BM
        relative_BM, labels_BM = _nearest_weighted(products_BMM, weights)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1 and torch.equal(labels_BM, previous_BM):
            break
    return torch.bmm(weights, sample)


def _dtype_of_products(device: torch.device) -> torch.dtype:
    """Return bf16 where it makes the product of the samples faster (four times on a CPU)."""
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _seed(products_BMM: Tensor, squares_BM: Tensor, draws_BKT: Tensor) -> Tensor:
    """Return [B, K] tokens chosen by greedy k-means++, as scikit-learn does it.

    Of T candidates, each drawn with a probability proportional to its squared distance from the
    nearest chosen token, the one that lowers the sum of these distances most is chosen.
    """
    image = torch.arange(len(products_BMM), device=products_BMM.device)
    nearest_BM = torch.ones_like(squares_BM)  # the first one is any token
    chosen = []
    for step, draw_BT in enumerate(draws_BKT.unbind(1)):
        # In fp64, so that the sums do not depend on the order in which a device adds.
        mass_BM = nearest_BM.cumsum(1, dtype=torch.float64)
        candidates_BT = torch.searchsorted(mass_BM, draw_BT * mass_BM[:, -1:], right=True)
        candidates_BT = candidates_BT.clamp(max=squares_BM.shape[1] - 1)  # all distances are 0
        if step == 0:
            candidates_BT = candidates_BT[:, :1]
        lowered_BTM = products_BMM[image[:, None], candidates_BT].float() * -2
        lowered_BTM += squares_BM[:, None] + squares_BM.gather(1, candidates_BT)[:, :, None]
        lowered_BTM.clamp_(min=0)
        if step > 0:
            lowered_BTM = torch.minimum(lowered_BTM, nearest_BM[:, None])
        best_B = lowered_BTM.sum(2).argmin(1)
        nearest_BM = lowered_BTM[image, best_B]
        chosen.append(candidates_BT[image, best_B])
    return torch.stack(chosen, dim=1)


def _nearest_weighted(products_BMM: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_nearest` of the sample, the centres being given by [B, K, M] weights."""
    products_BKM = torch.bmm(weights.to(products_BMM.dtype), products_BMM).float()
    lengths_BK1 = (products_BKM * weights).sum(2, keepdim=True)
    relative_BM, labels_BM = torch.add(lengths_BK1, products_BKM, alpha=-2).min(1)
    return relative_BM, labels_BM


def _nearest(tokens: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return [B, N] squared distance to the nearest centre less the token's square, and which."""
    lengths_BK1 = centres.square().sum(2, keepdim=True)
    relative_BKN = torch.baddbmm(lengths_BK1, centres, tokens.transpose(1, 2), alpha=-2)
    relative_BN, labels_BN = relative_BKN.min(1)
    return relative_BN, labels_BN


def _members(labels: Tensor, k: int) -> Tensor:
    """Return [B, K, tokens] bool, whether a token belongs to a cluster."""
    return labels[:, None] == torch.arange(k, device=labels.device)[:, None]


def _means(tokens: Tensor, labels_BN: Tensor, distances_BN: Tensor, k: int) -> Tensor:
    """Return [B, K, F] the mean of each cluster, or the farthest token for one that is empty.

    Two empty clusters get the same token: the second stays empty, and gets the next one in the
    next iteration.
    """
    B = len(tokens)
    image = torch.arange(B, device=tokens.device)
    clusters, order = (labels_BN + k * image[:, None]).flatten().sort(stable=True)
    starts = torch.searchsorted(clusters, torch.arange(B * k + 1, device=tokens.device))
    # A sum of rows, four times as fast as the product with a matrix of zeros and ones.
    means = F.embedding_bag(
        order, tokens.flatten(0, 1), starts, mode="mean", include_last_offset=True
    )
    farthest_BF = tokens[image, distances_BN.argmax(1)]
    is_empty = (starts.diff() == 0).view(B, k, 1)
    return torch.where(is_empty, farthest_BF[:, None], means.view(B, k, -1))
