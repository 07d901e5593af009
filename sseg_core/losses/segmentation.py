"""What a student minimises: cross-entropy at every pixel whose label counts.

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sseg_core.config import StudentLossConfig
from sseg_core.distributed import sum_over_ranks, world_size
from sseg_core.structures import BACKGROUND, VOID, ClassLogits

_LOGITS_AT_ONCE = 1 << 26
"""Logits at full size that exist at a time, but for those of a single image: 256 MiB in float32."""


@dataclass(frozen=True)
class SegmentationLosses:
    """The losses of a batch, or of this process's part of it, each a scalar tensor.

    Attributes:
        total: what is minimised, with the auxiliary head's part weighted.
        cross_entropy: of the logits, without graph.
        auxiliary: of the auxiliary head's logits, not weighted, without graph; None without one.
        accuracy: share of the counted pixels whose best channel is their label, without graph.
    """

    total: Tensor
    cross_entropy: Tensor
    auxiliary: Tensor | None
    accuracy: Tensor


def segmentation_loss(
    output: ClassLogits,
    label_maps: Tensor,
    config: StudentLossConfig,
    valid: Tensor | None = None,
) -> SegmentationLosses:
    """Return the loss of a batch, in fp32 even under autocast.

    Logits are interpolated to pixels, where the cross-entropy is summed over those that count and
    divided by `valid`. So the losses of micro-batches add up to that of the batch, and their means
    over ranks are that of the whole batch, however unequal the parts are; so do the gradients, and
    the accuracies. Without a pixel that counts all is 0, the gradients too.

    Args:
        output: what the student returned for the images, padded or not.
        label_maps: [B, H, W] int16 class index; `BACKGROUND` is the last channel, `VOID` does not
            count. H and W are at most those that the cells of the logits cover.
        config: weight of the auxiliary head.
        valid: what the sums are divided by, see `valid_per_rank`; default: by the counted pixels of
            these label maps and of those that the other ranks pass at the same time.
    """
    if valid is None:
        valid = valid_per_rank(count_valid(label_maps))
    h, w = output.logits.shape[-2:]
    covered = (h * output.stride, w * output.stride)
    entropy, correct = _sums(output.logits, label_maps, covered)
    cross_entropy = entropy / valid
    total, auxiliary = cross_entropy, None
    if output.auxiliary is not None:
        auxiliary = _sums(output.auxiliary, label_maps, covered)[0] / valid
        total = cross_entropy + config.auxiliary * auxiliary
    return SegmentationLosses(
        total=total,
        cross_entropy=cross_entropy.detach(),
        auxiliary=None if auxiliary is None else auxiliary.detach(),
        accuracy=correct / valid,
    )


def count_valid(label_maps: Tensor) -> Tensor:
    """Return how many pixels of [B, H, W] label maps count, a scalar on their device."""
    return (label_maps != VOID).sum()


def valid_per_rank(count: Tensor) -> Tensor:
    """Return the counted pixels of the whole batch, at least 1, divided by the number of ranks.

    Args:
        count: sum of `count_valid` over this rank's part of the batch.
    """
    return sum_over_ranks(count).clamp(min=1) / world_size()


def _sums(logits: Tensor, label_maps: Tensor, covered: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies of the counted pixels, and how many are right.

    A few images at a time, and again in the backward pass instead of being kept: at full size the
    logits of a hundred classes, their softmax and its gradient would need more memory than all
    else in a training step, once for each head.

    Args:
        logits: [B, C, h, w] on a grid over `covered`.
        label_maps: [B, H, W].
        covered: height and width in pixels.
    """
    floats = logits.shape[1] * covered[0] * covered[1]
    images = max(1, _LOGITS_AT_ONCE // floats)
    parts = [
        checkpoint(_sums_of_part, *part, covered, use_reentrant=False, preserve_rng_state=False)
        for part in zip(torch.split(logits, images), torch.split(label_maps, images), strict=True)
    ]
    entropies, corrects = zip(*parts, strict=True)
    return torch.stack(entropies).sum(), torch.stack(corrects).sum()


def _sums_of_part(
    logits: Tensor, label_maps: Tensor, covered: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    # Contiguous while it is small: the softmax would copy it at full size.
    at_pixels = F.interpolate(
        logits.float().contiguous(), size=covered, mode="bilinear", align_corners=False
    )
    at_pixels = at_pixels[..., : label_maps.shape[1], : label_maps.shape[2]]
    targets = label_maps.long()
    targets.masked_fill_(label_maps == BACKGROUND, logits.shape[1] - 1)
    entropy = F.cross_entropy(at_pixels, targets, ignore_index=VOID, reduction="sum")
    # Behind what the backward pass repeats.
    correct = (at_pixels.detach().argmax(dim=1) == targets).sum()
    return entropy, correct
