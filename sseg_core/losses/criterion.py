"""What training minimises: mask losses of all decoder layers plus the contrastive loss (Eq. 4).

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sseg_core.config import LossConfig
from sseg_core.losses.contrastive import contrastive_loss
from sseg_core.losses.mask import dice_loss, focal_loss
from sseg_core.losses.mask_targets import mask_targets
from sseg_core.losses.matcher import Matching, match, matching_costs
from sseg_core.structures import LossTerms, MaskTargets, SegmenterOutput


def criterion(
    output: SegmenterOutput, label_maps: Tensor, num_segments: int, config: LossConfig
) -> LossTerms:
    """Return the loss of a batch (S-Seg Eq. 4), in fp32 even under autocast.

    Each decoder layer is matched for itself and the mask losses of all layers are summed, as in
    MaskFormer; `LossTerms.dice` and `LossTerms.focal` are those of the last layer, so that they
    compare between runs with and without auxiliary losses. A query that no mask was matched to
    gets no mask gradient; a batch without any mask has mask losses of 0.

    Args:
        output: what the network returned for the batch.
        label_maps: [B, H, W] uint8 segment ids of the pseudo-masks, on the output's device.
        num_segments: all ids are below it, but for `IGNORE_LABEL`.
        config: the weights.
    """
    with torch.autocast(output.masks.mask_logits.device.type, enabled=False):
        layers = [output.masks.mask_logits.float()]
        if config.auxiliary:
            layers += [logits.float() for logits in output.masks.auxiliary_mask_logits]
        h, w = layers[0].shape[-2:]
        targets = mask_targets(label_maps, (h, w), num_segments)
        costs = [matching_costs(logits, targets, config) for logits in layers]
        matching = match(costs, targets.present)
        losses = torch.stack(
            [_mask_losses(logits, targets, matching, i) for i, logits in enumerate(layers)]
        )
        contrastive = contrastive_loss(
            output.image_features.float(), output.text_features.float(), output.logit_scale.float()
        )
        dice, focal = losses.sum(0)
        total = config.mask * (config.dice * dice + config.focal * focal)
        total = total + config.contrastive * contrastive
    return LossTerms(total=total, contrastive=contrastive, dice=losses[0, 0], focal=losses[0, 1])


def _mask_losses(
    mask_logits_BQhw: Tensor, targets: MaskTargets, matching: Matching, layer: int
) -> Tensor:
    """Return [2]: dice and focal loss of one layer, normalised by the number of masks."""
    # One flat index_select: its backward is a scatter of distinct rows, with no sort.
    rows = matching.images * mask_logits_BQhw.shape[1] + matching.queries[layer]
    logits_Phw = mask_logits_BQhw.flatten(0, 1).index_select(0, rows)
    slots = matching.images * targets.masks.shape[1] + matching.masks[layer]
    masks_Phw = targets.masks.flatten(0, 1).index_select(0, slots)
    valid_Phw = targets.valid.index_select(0, matching.images)
    dice = dice_loss(logits_Phw, masks_Phw, valid_Phw).sum()
    focal = focal_loss(logits_Phw, masks_Phw, valid_Phw).sum()
    return torch.stack([dice, focal]) / max(1, matching.num_masks)
