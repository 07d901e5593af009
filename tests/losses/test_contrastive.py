"""The contrastive loss against open_clip, by gradients and at its limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from sseg_core.losses.contrastive import contrastive_loss


def _features(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=dtype)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_it_is_twice_the_clip_loss(scale: float) -> None:
    """Eq. 2-3 sum the two directions, where CLIP takes their mean."""
    image, text = _features(0)
    theirs = ClipLoss()(image, text, torch.tensor(scale))
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(scale)), 2 * theirs)


def test_both_modalities_count_alike() -> None:
    """Exchanging images and texts does not change the loss."""
    image, text = _features(1)
    scale = torch.tensor(5.0)
    torch.testing.assert_close(
        contrastive_loss(image, text, scale), contrastive_loss(text, image, scale)
    )


def test_equal_features_cost_the_entropy_of_a_guess() -> None:
    """When nothing can be told apart, each direction costs log B."""
    same = F.normalize(torch.ones(4, 3), dim=1)
    loss = contrastive_loss(same, same, torch.tensor(20.0))
    assert loss.item() == pytest.approx(2 * math.log(4))


def test_gradients_agree_with_finite_differences() -> None:
    """Analytic gradients of both features and of the temperature, in double precision."""
    image, text = (t.requires_grad_() for t in _features(2, torch.float64))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(contrastive_loss, (image, text, scale))
