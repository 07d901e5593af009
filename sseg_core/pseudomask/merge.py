"""Merging of neighbouring cells into segments: Ward's rule, with the layout of the image in it.

Our choice, not in the paper: the clustering of features without weights, for which k-means is too
coarse. Shapes: B images of gh x gw cells, N = gh * gw, F features of a cell, R regions, K segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Chosen on 200 photos of Pascal VOC (our choice, not in the paper); the score is flat around
# these values.
_APART = 3.0  # cost factor of merging two segments that do not touch
_CENTRE = 0.3  # standard deviation of the weight of a cell, as a share of the image side
_RIM = 0.1  # weight of a cell far from the centre

_FEW = 64  # regions from which on every pair is compared, touching or not
_CHUNK = 8  # images at once on a CPU: what is read again and again stays in its cache


@torch.no_grad()
def merge(features_BGHF: Tensor, k: int) -> Tensor:
    """Merge the cells of each image until `k` segments are left.

    The cost of merging two segments is Ward's: the growth of the weighted sum of squared
    distances of the cells to the mean of their segment. Cells near the centre of the image weigh
    more, so that of K segments more fall to what the photo is of; segments that do not touch, such
    as the sky on both sides of a tower, merge at a higher price. The scale of the features does
    not matter.

    Args:
        features_BGHF: [B, gh, gw, F] float, finite; costs are taken in fp32.
        k: number of segments; images of fewer cells keep each cell.

    Returns:
        [B, gh, gw] int64 labels from 0 to min(k, N) - 1, none of them unused.
    """
    size = _CHUNK if features_BGHF.device.type == "cpu" else len(features_BGHF)
    return torch.cat([_merge(part.float(), k) for part in torch.split(features_BGHF, size)])


def _merge(features: Tensor, k: int) -> Tensor:
    regions = _merge_touching(features, 2 * max(_FEW, k))
    segment_of_region_BR = _merge_all(regions, k)
    return segment_of_region_BR.gather(1, regions.labels).view(features.shape[:3])


@dataclass(frozen=True)
class _Regions:
    """Connected groups of cells, padded to R, the largest number of an image.

    Attributes:
        labels: [B, N] int64 region of each cell.
        counts: [B] int64 number of regions.
        means: [B, R, F] weighted mean features.
        weights: [B, R] sum of the weights of the cells; 0 where there is no region.
        touching: [B, R, R] bool, symmetric.
    """

    labels: Tensor
    counts: Tensor
    means: Tensor
    weights: Tensor
    touching: Tensor


def _merge_touching(features: Tensor, limit: int) -> _Regions:
    """Merge touching regions that are each other's cheapest until at most `limit` are left.

    All such pairs of an image merge at once, so that a few rounds do; as a round at most halves
    their number, more than limit / 2 regions remain.
    """
    B, gh, gw, F = features.shape
    N, device = gh * gw, features.device
    means = features.reshape(B * N, F).clone()
    weights = _cell_weights(gh, gw, device).flatten().repeat(B)
    offsets = N * torch.arange(B, device=device)
    pairs = _grid_pairs(gh, gw, device)
    # Regions are known by one of their cells; the cells of all images are numbered in a row.
    u, v = (pairs[:, None] + offsets[:, None]).flatten(1)
    owner = torch.arange(B * N, device=device)
    counts = torch.full((B,), N, device=device)
    while True:
        open_pairs = torch.nonzero((u != v) & (counts > limit)[u // N])[:, 0]
        if not len(open_pairs):
            break
        u, v = u.index_select(0, open_pairs), v.index_select(0, open_pairs)
        cost = (means.index_select(0, u) - means.index_select(0, v)).square_().sum(1)
        cost *= _ward(weights.index_select(0, u), weights.index_select(0, v))
        chosen = _mutually_cheapest(u, v, cost, B * N)
        assert len(chosen), "features are finite, so that some pair is the cheapest"
        a, b = u[chosen], v[chosen]
        total = weights[a] + weights[b]
        means[a] += (means[b] - means[a]) * (weights[b] / total)[:, None]
        weights[a] = total
        successor = torch.arange(B * N, device=device)
        successor[b] = a
        owner = successor.index_select(0, owner)
        u, v = successor.index_select(0, u), successor.index_select(0, v)
        counts = counts - torch.bincount(a // N, minlength=B)
    return _gather_regions(owner.view(B, N) - offsets[:, None], pairs, means, weights)


def _cell_weights(gh: int, gw: int, device: torch.device) -> Tensor:
    """Return [gh, gw] the weights of the cells: a bell over a floor."""
    y, x = ((torch.arange(side, device=device) + 0.5) / side - 0.5 for side in (gh, gw))
    bell = torch.exp(-(y.square()[:, None] + x.square()) / (2 * _CENTRE**2))
    return _RIM + (1 - _RIM) * bell


def _grid_pairs(gh: int, gw: int, device: torch.device) -> Tensor:
    """Return [2, P] the pairs of cells that share a side, in a fixed arbitrary order.

    The order decides between pairs of equal cost. In the order of rows, few of the many equal
    pairs of a plain image would be each other's first choice.
    """
    cells = torch.arange(gh * gw).view(gh, gw)
    beside = torch.stack([cells[:, :-1].flatten(), cells[:, 1:].flatten()])
    below = torch.stack([cells[:-1].flatten(), cells[1:].flatten()])
    pairs = torch.cat([beside, below], dim=1)
    order = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(0))
    return pairs[:, order].to(device)


def _ward(weight: Tensor, other: Tensor) -> Tensor:
    """Return by how much the squared distance of two means counts for Ward's cost."""
    return weight * other / (weight + other)


def _mutually_cheapest(u: Tensor, v: Tensor, cost: Tensor, regions: int) -> Tensor:
    """Return the indices of the pairs that are the cheapest of both their regions.

    Of equally cheap pairs of a region, the first counts.
    """
    cheapest = cost.new_full((regions,), float("inf"))
    cheapest.scatter_reduce_(0, u, cost, "amin").scatter_reduce_(0, v, cost, "amin")
    least = torch.minimum(cheapest.index_select(0, u), cheapest.index_select(0, v))
    pair = torch.nonzero(cost == least)[:, 0]
    first = pair.new_full((regions,), len(u))
    first.scatter_reduce_(0, u[pair], pair, "amin").scatter_reduce_(0, v[pair], pair, "amin")
    return pair[(first[u[pair]] == pair) & (first[v[pair]] == pair)]


def _gather_regions(owner_BN: Tensor, pairs: Tensor, means: Tensor, weights: Tensor) -> _Regions:
    """Number the regions of each image from 0.

    Args:
        owner_BN: the cell by which the region of each cell is known.
        pairs: [2, P] touching cells.
        means: [B * N, F], valid at the cells that are owners.
        weights: [B * N], likewise.
    """
    B, N = owner_BN.shape
    owns_BN = torch.zeros_like(owner_BN, dtype=torch.bool).scatter_(1, owner_BN, value=True)
    number_BN = owns_BN.cumsum(1) - 1
    counts = number_BN[:, -1] + 1
    R = int(counts.max())
    labels = number_BN.gather(1, owner_BN)
    image, cell = torch.nonzero(owns_BN, as_tuple=True)
    region = number_BN[image, cell]
    padded_means = means.new_zeros(B, R, means.shape[1])
    padded_means[image, region] = means.view(B, N, -1)[image, cell]
    padded_weights = weights.new_zeros(B, R)
    padded_weights[image, region] = weights.view(B, N)[image, cell]
    touching = torch.zeros(B, R, R, dtype=torch.bool, device=labels.device)
    a, b = labels[:, pairs[0]], labels[:, pairs[1]]
    rows = torch.arange(B, device=labels.device)[:, None]
    touching[rows, a, b] = True
    touching[rows, b, a] = True
    return _Regions(labels, counts, padded_means, padded_weights, touching)


def _merge_all(regions: _Regions, k: int) -> Tensor:
    """Merge the cheapest pair of each image, one after the other, until `k` segments are left.

    Returns:
        [B, R] int64 segment of each region.
    """
    means, weights = regions.means.clone(), regions.weights.clone()
    touching, counts = regions.touching.clone(), regions.counts
    B, R, F = means.shape
    squares = means.new_zeros(B, R, R)
    for f in range(F):
        squares += (means[:, :, None, f] - means[:, None, :, f]).square_()
    cost_BRR = squares * _ward(weights[:, :, None], weights[:, None]) * _apart(touching)
    exists_BR = weights > 0
    cost_BRR.masked_fill_(~(exists_BR[:, :, None] & exists_BR[:, None]), float("inf"))
    cost_BRR.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    owner_BR = torch.arange(R, device=means.device).expand(B, R).contiguous()
    for left in range(R, k, -1):
        # An image with fewer regions than the others joins later, so that all end together.
        (image,) = torch.nonzero(counts >= left, as_tuple=True)
        a = cost_BRR.amin(2)[image].argmin(1)
        b = cost_BRR[image, a].argmin(1)
        total = weights[image, a] + weights[image, b]
        share = (weights[image, b] / total)[:, None]
        mean = means[image, a] + (means[image, b] - means[image, a]) * share
        means[image, a], weights[image, a], weights[image, b] = mean, total, 0
        touches = touching[image, a] | touching[image, b]
        touching[image, a], touching[image, :, a] = touches, touches
        owner_BR[image] = torch.where(owner_BR[image] == b[:, None], a[:, None], owner_BR[image])
        cost = (means[image] - mean[:, None]).square_().sum(2)
        cost *= _ward(weights[image], total[:, None]) * _apart(touches)
        cost.masked_fill_(weights[image] == 0, float("inf"))
        cost.scatter_(1, a[:, None], float("inf"))
        cost_BRR[image, a], cost_BRR[image, :, a] = cost, cost
        cost_BRR[image, b], cost_BRR[image, :, b] = float("inf"), float("inf")
    owns_BR = torch.zeros_like(exists_BR).scatter_(1, owner_BR, value=True) & exists_BR
    return (owns_BR.cumsum(1) - 1).gather(1, owner_BR)


def _apart(touching: Tensor) -> Tensor:
    """Return the factor of the cost: 1 where segments touch."""
    return torch.where(touching, 1.0, _APART)
