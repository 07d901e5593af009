"""What training minimises: mask losses of all decoder layers plus the contrastive loss (Eq. 4).

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sseg_core.config import LossConfig
from sseg_core.distributed import sum_over_ranks, world_size
from sseg_core.losses.contrastive import contrastive_loss
from sseg_core.losses.mask import dice_loss, focal_loss
from sseg_core.losses.mask_targets import mask_targets
from sseg_core.losses.matcher import Matching, match, matching_costs
from sseg_core.structures import LossTerms, MaskLosses, MaskOutput, MaskTargets, SegmenterOutput


def criterion(
    output: SegmenterOutput, label_maps: Tensor, num_segments: int, config: LossConfig
) -> LossTerms:
    """Return the loss of a batch (S-Seg Eq. 4), in fp32 even under autocast.

    With several processes each has its part of the batch; the mean of the totals over the ranks
    is the loss of the whole batch, and so are the gradients (see `contrastive_loss`).

    Args:
        output: what the network returned for the batch.
        label_maps: [B, H, W] uint8 segment ids of the pseudo-masks, on the output's device.
        num_segments: all ids are below it, but for `IGNORE_LABEL`.
        config: the weights.
    """
    size = output.masks.mask_logits.shape[-2:]
    present = count_masks(label_maps, (size[0], size[1]), num_segments)
    masks = mask_losses(output.masks, label_maps, num_segments, config, masks_per_rank(present))
    with torch.autocast(output.image_features.device.type, enabled=False):
        contrastive = contrastive_loss(
            output.image_features.float(), output.text_features.float(), output.logit_scale.float()
        )
    return LossTerms(
        total=masks.total + config.contrastive * contrastive,
        contrastive=contrastive,
        dice=masks.dice,
        focal=masks.focal,
    )


def count_masks(label_maps: Tensor, size: tuple[int, int], num_segments: int) -> Tensor:
    """Return how many masks are present on the mask grid, a scalar on the device.

    Args:
        label_maps: [B, H, W] of this rank.
        size: (h, w) of the mask grid.
        num_segments: as in `criterion`.
    """
    return mask_targets(label_maps, size, num_segments).present.sum()


def masks_per_rank(present: Tensor) -> Tensor:
    """Return the masks of the whole batch, at least 1, divided by the number of ranks.

    It normalises the mask losses so that their mean over ranks is that of one process, even
    where the ranks have unequal numbers of masks.

    Args:
        present: `count_masks` of this rank's part of the batch.
    """
    return sum_over_ranks(present).clamp(min=1) / world_size()


def mask_losses(
    masks: MaskOutput,
    label_maps: Tensor,
    num_segments: int,
    config: LossConfig,
    num_masks: Tensor,
) -> MaskLosses:
    """Return the mask losses of all decoder layers (S-Seg Eq. 1), in fp32 even under autocast.

    Each decoder layer is matched for itself and the losses of all layers are summed, as in
    MaskFormer; `dice` and `focal` are those of the last layer, so that they compare between runs
    with and without auxiliary losses. A query that no mask was matched to gets no gradient;
    without any mask the losses are 0. With `config.mask` 0 nothing is matched.

    Args:
        masks: the mask half of the output.
        label_maps: as in `criterion`.
        num_segments: as in `criterion`.
        config: the weights.
        num_masks: what the sums over masks are divided by, see `masks_per_rank`.
    """
    if config.mask == 0:
        # A zero with a graph: every parameter has a gradient, which its average over ranks needs.
        nothing = masks.mask_logits[:0].float().sum()
        return MaskLosses(total=nothing, dice=nothing, focal=nothing)
    with torch.autocast(masks.mask_logits.device.type, enabled=False):
        layers = [masks.mask_logits.float()]
        if config.auxiliary:
            layers += [logits.float() for logits in masks.auxiliary_mask_logits]
        h, w = layers[0].shape[-2:]
        targets = mask_targets(label_maps, (h, w), num_segments)
        costs = [matching_costs(logits, targets, config) for logits in layers]
        matching = match(costs, targets.present)
        losses = torch.stack(
            [_layer_losses(logits, targets, matching, i) for i, logits in enumerate(layers)]
        )
        losses = losses / num_masks
        dice, focal = losses.sum(0)
        total = config.mask * (config.dice * dice + config.focal * focal)
    return MaskLosses(total=total, dice=losses[0, 0], focal=losses[0, 1])


def _layer_losses(
    mask_logits_BQhw: Tensor, targets: MaskTargets, matching: Matching, layer: int
) -> Tensor:
    """Return [2]: the sums of dice and focal loss over the masks of one layer."""
    # One flat index_select: its backward is a scatter of distinct rows, with no sort.
    rows = matching.images * mask_logits_BQhw.shape[1] + matching.queries[layer]
    logits_Phw = mask_logits_BQhw.flatten(0, 1).index_select(0, rows)
    slots = matching.images * targets.masks.shape[1] + matching.masks[layer]
    masks_Phw = targets.masks.flatten(0, 1).index_select(0, slots)
    valid_Phw = targets.valid.index_select(0, matching.images)
    dice = dice_loss(logits_Phw, masks_Phw, valid_Phw).sum()
    focal = focal_loss(logits_Phw, masks_Phw, valid_Phw).sum()
    return torch.stack([dice, focal])
