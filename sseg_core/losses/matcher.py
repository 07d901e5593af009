"""Which query answers for which pseudo-mask: bipartite matching without a class cost.

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sseg_core.config import LossConfig
from sseg_core.losses.mask import FOCAL_ALPHA
from sseg_core.structures import MaskTargets

# Stands for a cost that is not finite: such a pair is made only where no other is left, and
# scipy never sees a number it refuses. Real costs are far below it.
_WORST_COST = 1e6


@dataclass(frozen=True)
class Matching:
    """The matched pairs of a batch, for each of several decoder layers.

    An image with K masks has min(K, Q) pairs in every layer, so the images are the same for all
    layers and P, the number of pairs, is too.

    Attributes:
        images: [P] int64 index of the image.
        queries: [layers, P] int64 index of the query within the image.
        masks: [layers, P] int64 index into `MaskTargets.masks`.
    """

    images: Tensor
    queries: Tensor
    masks: Tensor


@torch.no_grad()
def matching_costs(mask_logits_BQhw: Tensor, targets: MaskTargets, config: LossConfig) -> Tensor:
    """Return what each query would cost as the answer to each mask (S-Seg Sec. 3.3.1).

    The costs are the focal and dice losses of Eq. 1 with the same weights, over valid cells.

    Args:
        mask_logits_BQhw: [B, Q, h, w], fp32, outside autocast.
        targets: masks on the same grid.
        config: the weights.

    Returns:
        [B, Q, K] finite costs, K being the largest of `targets.counts`; the columns from an
        image's own count on are padding.
    """
    masks_BKN = _padded(targets).to(mask_logits_BQhw.dtype)
    valid_B1N = targets.valid.flatten(1).unsqueeze(1).to(mask_logits_BQhw.dtype)
    logits_BQN = mask_logits_BQhw.flatten(2)

    probabilities = logits_BQN.sigmoid()
    negative_entropy = F.softplus(logits_BQN)  # -log(1 - p); -log(p) is this minus the logit
    positive = FOCAL_ALPHA * (1 - probabilities) ** 2 * (negative_entropy - logits_BQN)
    negative = (1 - FOCAL_ALPHA) * probabilities**2 * negative_entropy
    masks_BNK = masks_BKN.transpose(1, 2)
    # positive * mask + negative * (valid - mask), with one product for the part with the mask.
    focal = (positive - negative) @ masks_BNK + negative @ valid_B1N.transpose(1, 2)
    focal = focal / valid_B1N.sum(2, keepdim=True).clamp(min=1)

    valid_probabilities = probabilities * valid_B1N
    overlap = valid_probabilities @ masks_BNK
    areas = valid_probabilities.sum(2)[:, :, None] + masks_BKN.sum(2)[:, None, :]
    dice = 1 - (2 * overlap + 1) / (areas + 1)

    costs = config.focal * focal + config.dice * dice
    return costs.nan_to_num(_WORST_COST, _WORST_COST, _WORST_COST).clamp(max=_WORST_COST)


def match(costs: Sequence[Tensor], counts: Sequence[int]) -> Matching:
    """Pair masks and queries so that the sum of the costs is least, in each image and layer.

    All layers come at once because the costs must travel to the host: one copy a step.

    Args:
        costs: for each layer [B, Q, K] of `matching_costs`.
        counts: masks in each image; where there are more masks than queries, the dearest masks
            stay without a query.
    """
    stacked = torch.stack(tuple(costs))
    costs_LBQK = stacked.cpu().numpy()
    layers, _, num_queries, _ = costs_LBQK.shape
    pairs = [min(count, num_queries) for count in counts]
    queries = np.empty((layers, sum(pairs)), dtype=np.int64)
    masks = np.empty_like(queries)
    begin = first_mask = 0
    for image, count in enumerate(counts):
        end = begin + pairs[image]
        for layer in range(layers):
            rows, columns = linear_sum_assignment(costs_LBQK[layer, image, :, :count])
            queries[layer, begin:end] = rows
            masks[layer, begin:end] = first_mask + columns
        begin, first_mask = end, first_mask + count
    images = np.repeat(np.arange(len(counts)), pairs)
    indices = torch.from_numpy(np.concatenate([images[None], queries, masks])).to(stacked.device)
    return Matching(indices[0], indices[1 : 1 + layers], indices[1 + layers :])


def _padded(targets: MaskTargets) -> Tensor:
    """Return the masks as [B, K, h * w], zeros beyond an image's own count."""
    B, h, w = targets.valid.shape
    counts = torch.tensor(targets.counts)
    slots = torch.arange(int(counts.max()))[None] < counts[:, None]
    padded = targets.masks.new_zeros(B, slots.shape[1], h * w)
    padded[slots.to(padded.device)] = targets.masks.flatten(1)
    return padded
