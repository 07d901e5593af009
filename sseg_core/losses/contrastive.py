"""Images and captions find each other in a common space (S-Seg Eq. 2-3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Return L_{I->T} + L_{T->I}: the sum of both directions, not their mean as in CLIP.

    Args:
        image_features: [B, D], L2-normalised.
        text_features: [B, D], L2-normalised; row i belongs to image i, all others are negatives.
        logit_scale: scalar, 1 / sigma.
    """
    logits_BB = logit_scale * image_features @ text_features.T
    own = torch.arange(len(logits_BB), device=logits_BB.device)
    return F.cross_entropy(logits_BB, own) + F.cross_entropy(logits_BB.T, own)
