"""Images and captions find each other in a common space (S-Seg Eq. 2-3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.distributed import gather, rank


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Return L_{I->T} + L_{T->I}: the sum of both directions, not their mean as in CLIP.

    With several processes the negatives come from all of them: each rank compares its own images
    with all texts and its own texts with all images. The mean over ranks, of the values as of the
    gradients (see `distributed.gather`), is then the loss of the whole batch in one process, and
    no rank holds more than its rows of the matrix.

    Args:
        image_features: [B, D], L2-normalised, of this rank.
        text_features: [B, D], L2-normalised; row i belongs to image i, all others are negatives.
        logit_scale: scalar, 1 / sigma.
    """
    own = torch.arange(len(image_features), device=image_features.device)
    own = own + rank() * len(image_features)
    to_texts = logit_scale * image_features @ gather(text_features).T
    to_images = logit_scale * text_features @ gather(image_features).T
    return F.cross_entropy(to_texts, own) + F.cross_entropy(to_images, own)
