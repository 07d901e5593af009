"""What training minimises: mask losses of all decoder layers plus the contrastive loss (Eq. 4).

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sseg_core.config import LossConfig
from sseg_core.distributed import sum_over_ranks, world_size
from sseg_core.losses.contrastive import contrastive_loss
from sseg_core.losses.mask import dice_loss, focal_loss
from sseg_core.losses.mask_targets import mask_targets
from sseg_core.losses.matcher import SentCosts, match, matching_costs, send_costs
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
    pending = None
    if config.mask > 0:
        pending = _start_matching(output.masks, label_maps, num_segments, config)
    with torch.autocast(output.image_features.device.type, enabled=False):
        # While the costs travel: a GPU has this to do, and the ranks' features to exchange.
        contrastive = contrastive_loss(
            output.image_features.float(), output.text_features.float(), output.logit_scale.float()
        )
    if pending is None:
        masks = _no_mask_losses(output.masks)
    else:
        num_masks = masks_per_rank(pending.targets.present.sum())
        masks = _matched_losses(pending, config, num_masks)
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
        return _no_mask_losses(masks)
    pending = _start_matching(masks, label_maps, num_segments, config)
    return _matched_losses(pending, config, num_masks)


@dataclass(frozen=True)
class _Pending:
    """Mask losses whose matching costs are on their way to the host."""

    layers: tuple[Tensor, ...]  # [B, Q, h, w] each, the last decoder layer first
    targets: MaskTargets
    costs: SentCosts


def _start_matching(
    masks: MaskOutput, label_maps: Tensor, num_segments: int, config: LossConfig
) -> _Pending:
    auxiliary = masks.auxiliary_mask_logits if config.auxiliary else ()
    layers = (masks.mask_logits, *auxiliary)
    h, w = masks.mask_logits.shape[-2:]
    with torch.autocast(masks.mask_logits.device.type, enabled=False):
        targets = mask_targets(label_maps, (h, w), num_segments)
        costs = [matching_costs(logits, targets, config) for logits in layers]
        return _Pending(layers, targets, send_costs(costs, targets.present))


def _matched_losses(pending: _Pending, config: LossConfig, num_masks: Tensor) -> MaskLosses:
    """Wait for the costs, match, and return the losses of the pairs (P to a layer, of l layers)."""
    matching, targets = match(pending.costs), pending.targets
    with torch.autocast(targets.masks.device.type, enabled=False):
        Q, K = pending.layers[0].shape[1], targets.masks.shape[1]
        # Flat index_selects: their backward is a scatter of distinct rows, with no sort. Only
        # rows that count become fp32.
        rows_lP = matching.images * Q + matching.queries
        logits_lPhw = torch.stack(
            [
                logits.flatten(0, 1).index_select(0, rows_P)
                for logits, rows_P in zip(pending.layers, rows_lP, strict=True)
            ]
        ).float()
        slots_lP = matching.images * K + matching.masks
        masks_lPhw = targets.masks.flatten(0, 1).index_select(0, slots_lP.flatten())
        masks_lPhw = masks_lPhw.view_as(logits_lPhw)
        valid_Phw = targets.valid.index_select(0, matching.images)
        dice_l = dice_loss(logits_lPhw, masks_lPhw, valid_Phw).sum(1) / num_masks
        focal_l = focal_loss(logits_lPhw, masks_lPhw, valid_Phw).sum(1) / num_masks
        total = config.mask * (config.dice * dice_l + config.focal * focal_l).sum()
    return MaskLosses(total=total, dice=dice_l[0], focal=focal_l[0])


def _no_mask_losses(masks: MaskOutput) -> MaskLosses:
    # A sum over nothing, not a constant: every parameter keeps its place in the graph, without
    # which DistributedDataParallel would wait for gradients that never come.
    nothing = masks.mask_logits[:0].float().sum()
    return MaskLosses(total=nothing, dice=nothing, focal=nothing)
