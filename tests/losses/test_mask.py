"""Dice and focal loss against transformers and torchvision, by gradients and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss
from transformers.models.maskformer import modeling_maskformer

from sseg_core.losses.mask import dice_loss, focal_loss


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five pairs on a 6 x 7 grid, all cells valid."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(5, 6, 7, generator=generator)
    masks = (torch.rand(5, 6, 7, generator=generator) < 0.4).float()
    return logits, masks, torch.ones_like(masks)


def test_dice_equals_transformers(pairs: tuple[torch.Tensor, ...]) -> None:
    """The sum over pairs is MaskFormer's dice loss."""
    logits, masks, valid = pairs
    theirs = modeling_maskformer.dice_loss(logits.flatten(1), masks.flatten(1), 1)
    torch.testing.assert_close(dice_loss(logits, masks, valid).sum(), theirs)


def test_focal_equals_transformers_and_torchvision(pairs: tuple[torch.Tensor, ...]) -> None:
    """The sum over pairs is MaskFormer's focal loss, and RetinaNet's with alpha 0.25, gamma 2."""
    logits, masks, valid = pairs
    ours = focal_loss(logits, masks, valid)
    theirs = modeling_maskformer.sigmoid_focal_loss(logits.flatten(1), masks.flatten(1), 1)
    torch.testing.assert_close(ours.sum(), theirs)
    retina = sigmoid_focal_loss(logits, masks, alpha=0.25, gamma=2, reduction="none").mean((1, 2))
    torch.testing.assert_close(ours, retina)


def test_perfect_masks_cost_nothing_and_opposite_masks_the_most() -> None:
    """Logits of +-100 in the right places give 0; in the wrong places dice is nearly 1."""
    masks = torch.zeros(1, 20, 20)
    masks[0, :10] = 1
    valid = torch.ones_like(masks)
    logits = 200 * masks - 100
    assert dice_loss(logits, masks, valid).item() == pytest.approx(0, abs=1e-6)
    assert focal_loss(logits, masks, valid).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-logits, masks, valid).item() == pytest.approx(1 - 1 / 401)
    assert focal_loss(-logits, masks, valid).item() == pytest.approx(50)


def test_what_an_ignored_cell_holds_changes_nothing(pairs: tuple[torch.Tensor, ...]) -> None:
    """Losses and gradients depend on valid cells only, and equal those of the cut-out grid."""
    logits, masks, valid = (t.clone() for t in pairs)
    valid[:, :, 4:] = 0
    masks = masks * valid
    changed = logits.clone()
    changed[:, :, 4:] = -7
    changed.requires_grad_()
    for loss in (dice_loss, focal_loss):
        expected = loss(logits[:, :, :4], masks[:, :, :4], valid[:, :, :4])
        torch.testing.assert_close(loss(logits, masks, valid), expected)
        torch.testing.assert_close(loss(changed, masks, valid), expected)
        (gradient,) = torch.autograd.grad(loss(changed, masks, valid).sum(), changed)
        assert gradient[:, :, 4:].abs().max() == 0
        assert gradient[:, :, :4].abs().max() > 0


@pytest.mark.parametrize("loss", [dice_loss, focal_loss])
def test_gradients_agree_with_finite_differences(loss: object) -> None:
    """Analytic gradients in double precision."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = (torch.rand(3, 4, 4, generator=generator) < 0.5).double()
    valid = (torch.rand(3, 4, 4, generator=generator) < 0.8).double()
    assert torch.autograd.gradcheck(loss, (logits, masks * valid, valid))


def test_no_pairs_give_no_losses() -> None:
    """Zero pairs: an empty result, and no pair-less division."""
    empty = torch.zeros(0, 4, 4)
    assert dice_loss(empty, empty, empty).shape == focal_loss(empty, empty, empty).shape == (0,)
