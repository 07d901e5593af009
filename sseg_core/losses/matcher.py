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
        masks: [layers, P] int64 slot of the mask within the image.
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
        [B, Q, K] finite costs; those of an absent mask mean nothing.
    """
    masks_BKN = targets.masks.flatten(2).to(mask_logits_BQhw.dtype)
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


def match(costs: Sequence[Tensor], present_BK: Tensor) -> Matching:
    """Pair masks and queries so that the sum of the costs is least, in each image and layer.

    All layers come at once because the costs must travel to the host: one copy a step, the only
    one of the losses, that takes the flags along.

    Args:
        costs: for each layer [B, Q, K] of `matching_costs`.
        present_BK: [B, K] bool of `MaskTargets`; where an image has more masks than queries, the
            dearest masks stay without a query.
    """
    B, Q, K = costs[0].shape
    packed = torch.cat([*costs, present_BK.to(costs[0].dtype)[:, None]], dim=1).cpu().numpy()
    costs_BLQK = packed[:, :-1].reshape(B, len(costs), Q, K)
    slots = [np.flatnonzero(flags) for flags in packed[:, -1]]
    images, queries, masks = [], [], []
    for image, (layers, slot) in enumerate(zip(costs_BLQK, slots, strict=True)):
        pairs = [linear_sum_assignment(layer[:, slot]) for layer in layers]
        images.append(np.full(min(Q, len(slot)), image))
        queries.append(np.stack([rows for rows, _ in pairs]))
        masks.append(np.stack([slot[columns] for _, columns in pairs]))
    indices = torch.from_numpy(
        np.concatenate([np.concatenate(images)[None], *(np.hstack(x) for x in (queries, masks))])
    ).to(present_BK.device)
    first_mask = 1 + len(costs)
    return Matching(
        images=indices[0],
        queries=indices[1:first_mask],
        masks=indices[first_mask:],
    )
