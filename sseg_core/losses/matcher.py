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
        mask_logits_BQhw: [B, Q, h, w], of any precision, outside autocast.
        targets: masks on the same grid.
        config: the weights.

    Returns:
        [B, Q, K] finite costs; those of an absent mask mean nothing.
    """
    masks_BNK = targets.masks.flatten(2).transpose(1, 2)
    valid_B1N = targets.valid.flatten(1).unsqueeze(1)
    logits_BQN = mask_logits_BQhw.flatten(2).float()

    # In place where it can be: on a CPU fresh memory for such large tensors costs more than what
    # is computed in it.
    probabilities = logits_BQN.sigmoid().mul_(valid_B1N)
    entropy = F.softplus(logits_BQN)  # -log(1 - p); -log(p) is this minus the logit
    positive = (entropy - logits_BQN).mul_((1 - probabilities).square_())
    negative = entropy.mul_(probabilities).mul_(probabilities)  # 0 where not valid
    # alpha * positive * mask + (1 - alpha) * negative * (valid - mask), as masks lie in what is
    # valid: one product for both parts with the mask, and alpha comes after the large tensors.
    ratio = (1 - FOCAL_ALPHA) / FOCAL_ALPHA
    outside = negative.sum(2, keepdim=True)
    focal = FOCAL_ALPHA * (positive.sub_(negative, alpha=ratio) @ masks_BNK + ratio * outside)
    focal = focal / valid_B1N.sum(2, keepdim=True).clamp(min=1)

    overlap = probabilities @ masks_BNK
    areas = probabilities.sum(2, keepdim=True) + masks_BNK.sum(1, keepdim=True)
    dice = 1 - (2 * overlap + 1) / (areas + 1)

    costs = config.focal * focal + config.dice * dice
    return costs.nan_to_num(_WORST_COST, _WORST_COST, _WORST_COST).clamp(max=_WORST_COST)


@dataclass(frozen=True)
class SentCosts:
    """Matching costs on their way to the host; no one has waited for them yet.

    Attributes:
        packed: [B, layers * Q + 1, K] on the host, the last row of an image tells the present
            masks; not to be read before `arrived`.
        layers: the number of decoder layers.
        device: where the costs came from.
        arrived: is over when `packed` is whole; None where it is already.
    """

    packed: Tensor
    layers: int
    device: torch.device
    arrived: torch.cuda.Event | None


def send_costs(costs: Sequence[Tensor], present_BK: Tensor) -> SentCosts:
    """Start to copy the costs of all layers to the host: one copy a step, the losses' only one.

    Args:
        costs: for each layer [B, Q, K] of `matching_costs`.
        present_BK: [B, K] bool of `MaskTargets`; the flags travel along.
    """
    packed = torch.cat([*costs, present_BK.to(costs[0].dtype)[:, None]], dim=1)
    if packed.device.type != "cuda":
        return SentCosts(packed.cpu(), len(costs), packed.device, None)
    on_host = packed.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(packed.device))
    return SentCosts(on_host, len(costs), packed.device, arrived)


def match(sent: SentCosts) -> Matching:
    """Pair masks and queries so that the sum of the costs is least, in each image and layer.

    Where an image has more masks than queries, the dearest masks stay without a query.
    """
    if sent.arrived is not None:
        sent.arrived.synchronize()
    packed = sent.packed.numpy()
    costs_BLQK = packed[:, :-1].reshape(len(packed), sent.layers, -1, packed.shape[-1])
    slots = [np.flatnonzero(flags) for flags in packed[:, -1]]
    images, queries, masks = [], [], []
    for image, (layers, slot) in enumerate(zip(costs_BLQK, slots, strict=True)):
        pairs = [linear_sum_assignment(layer[:, slot]) for layer in layers]
        images.append(np.full(min(layers.shape[1], len(slot)), image))
        queries.append(np.stack([rows for rows, _ in pairs]))
        masks.append(np.stack([slot[columns] for _, columns in pairs]))
    indices = torch.from_numpy(
        np.concatenate([np.concatenate(images)[None], *(np.hstack(x) for x in (queries, masks))])
    )
    if sent.device.type == "cuda":
        indices = indices.pin_memory()  # else the copy would wait for all that the GPU has to do
    indices = indices.to(sent.device, non_blocking=True)
    first_mask = 1 + sent.layers
    return Matching(
        images=indices[0],
        queries=indices[1:first_mask],
        masks=indices[first_mask:],
    )
