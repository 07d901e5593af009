"""Dice and focal loss of matched masks (S-Seg Eq. 1, after MaskFormer).

Shapes are in the legend of `structures.py`; P is the number of matched pairs, and may be several
axes, as decoder layers and the pairs of each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA = 0.25
"""Weight of the cells inside a mask, as in RetinaNet and MaskFormer; the exponent is 2."""


def dice_loss(logits_Phw: Tensor, masks_Phw: Tensor, valid_Phw: Tensor) -> Tensor:
    """Return one minus the soft Dice overlap of each pair, smoothed by 1 as in MaskFormer.

    Args:
        logits_Phw: [P, h, w] mask logits of the matched queries.
        masks_Phw: [P, h, w] their pseudo-masks, in {0, 1}.
        valid_Phw: [P, h, w] in {0, 1}; a cell with 0 counts nowhere, and lies in no mask.

    Returns:
        [P] losses in [0, 1].
    """
    probabilities = logits_Phw.sigmoid() * valid_Phw
    overlap = (probabilities * masks_Phw).sum((-2, -1))
    areas = probabilities.sum((-2, -1)) + masks_Phw.sum((-2, -1))
    return 1 - (2 * overlap + 1) / (areas + 1)


def focal_loss(logits_Phw: Tensor, masks_Phw: Tensor, valid_Phw: Tensor) -> Tensor:
    """Return the mean sigmoid focal loss over the valid cells of each pair.

    Args:
        logits_Phw: as in `dice_loss`.
        masks_Phw: as in `dice_loss`.
        valid_Phw: as in `dice_loss`.

    Returns:
        [P] losses, 0 or more.
    """
    entropy = F.binary_cross_entropy_with_logits(logits_Phw, masks_Phw, reduction="none")
    miss = torch.where(masks_Phw > 0, -logits_Phw, logits_Phw).sigmoid()  # 1 - p_t
    weight = FOCAL_ALPHA * masks_Phw + (1 - FOCAL_ALPHA) * (1 - masks_Phw)
    losses = weight * miss**2 * entropy * valid_Phw
    return losses.sum((-2, -1)) / valid_Phw.sum((-2, -1)).clamp(min=1)
