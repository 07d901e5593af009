"""The student's loss: torch's cross-entropy over the pixels that count."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.config import StudentLossConfig
from sseg_core.losses import segmentation
from sseg_core.losses.segmentation import (
    SegmentationLosses,
    count_valid,
    segmentation_loss,
    valid_per_rank,
)
from sseg_core.structures import BACKGROUND, VOID, ClassLogits

B, C, H, W = 4, 5, 30, 44
STRIDE = 8
CONFIG = StudentLossConfig(auxiliary=0.4)


def _logits(*, auxiliary: bool = True) -> ClassLogits:
    """Of images that were padded to 32 x 48 pixels."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(B, C, 4, 6, generator=generator).requires_grad_()
    coarse = torch.randn(B, C, 2, 3, generator=generator).requires_grad_()
    return ClassLogits(logits=fine, auxiliary=coarse if auxiliary else None, stride=STRIDE)


def _label_maps() -> Tensor:
    """Every label there is; the first image does not count at all, the second in part."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randint(VOID, C - 1, (B, H, W), generator=generator, dtype=torch.int16)
    maps[0] = VOID
    maps[1, 5:] = VOID
    return maps


def _by_torch(logits: Tensor, label_maps: Tensor) -> Tensor:
    """The mean over all counted pixels, in one piece."""
    at_pixels = F.interpolate(logits, size=(32, 48), mode="bilinear")[..., :H, :W]
    targets = label_maps.long()
    targets[label_maps == BACKGROUND] = C - 1
    targets[label_maps == VOID] = 255
    return F.cross_entropy(at_pixels, targets, ignore_index=255)


def _gradients(losses: SegmentationLosses, output: ClassLogits) -> list[Tensor]:
    inputs = [part for part in (output.logits, output.auxiliary) if part is not None]
    return list(torch.autograd.grad(losses.total, inputs))


@pytest.mark.parametrize("at_once", [1, 1 << 26], ids=["image by image", "all at once"])
def test_the_loss_is_torchs_cross_entropy(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient, of both heads, however many images are looked at together."""
    monkeypatch.setattr(segmentation, "_LOGITS_AT_ONCE", at_once)
    output, label_maps = _logits(), _label_maps()
    losses = segmentation_loss(output, label_maps, CONFIG)
    fine, coarse = _by_torch(output.logits, label_maps), _by_torch(output.auxiliary, label_maps)
    torch.testing.assert_close(losses.cross_entropy, fine.detach())
    torch.testing.assert_close(losses.auxiliary, coarse.detach())
    torch.testing.assert_close(losses.total, fine + 0.4 * coarse)
    expected = torch.autograd.grad(fine + 0.4 * coarse, [output.logits, output.auxiliary])
    for actual, gradient in zip(_gradients(losses, output), expected, strict=True):
        torch.testing.assert_close(actual, gradient, atol=1e-7, rtol=1e-5)


def test_the_loss_by_hand() -> None:
    """Two pixels count: one of class 0 with probability 1/4, one of background with 3/4."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    label_maps = torch.tensor([[[0, VOID], [VOID, BACKGROUND]]], dtype=torch.int16)
    losses = segmentation_loss(ClassLogits(logits, None, stride=2), label_maps, CONFIG)
    expected = (math.log(4) + math.log(4 / 3)) / 2
    assert losses.total.item() == pytest.approx(expected)
    assert losses.cross_entropy.item() == pytest.approx(expected)
    assert losses.auxiliary is None
    assert losses.accuracy.item() == 0.5


def test_terms_for_the_log_have_no_graph() -> None:
    """Only the total has one."""
    losses = segmentation_loss(_logits(), _label_maps(), CONFIG)
    assert losses.total.requires_grad
    assert losses.auxiliary is not None
    for term in (losses.cross_entropy, losses.auxiliary, losses.accuracy):
        assert not term.requires_grad


def test_accuracy_is_the_share_of_counted_pixels_that_are_right() -> None:
    """As a loop over the pixels counts it; logits that are sure of the truth have 1."""
    output, label_maps = _logits(), _label_maps()
    best = F.interpolate(output.logits, size=(32, 48), mode="bilinear").argmax(1)[:, :H, :W]
    right = count = 0
    for label, channel in zip(label_maps.flatten().tolist(), best.flatten().tolist(), strict=True):
        count += label != VOID
        right += label == channel or (label == BACKGROUND and channel == C - 1)
    accuracy = segmentation_loss(output, label_maps, CONFIG).accuracy
    assert accuracy.item() == pytest.approx(right / count)

    truth = torch.where(label_maps == BACKGROUND, C - 1, label_maps.long().clamp(min=0))
    sure = 50 * F.one_hot(truth, C).permute(0, 3, 1, 2).float()
    losses = segmentation_loss(ClassLogits(sure, None, stride=1), label_maps, CONFIG)
    assert losses.accuracy.item() == 1
    assert losses.total.item() == pytest.approx(0, abs=1e-6)


def test_pixels_that_do_not_count_have_no_influence() -> None:
    """Other logits there: the same loss, bit for bit; and no gradient."""
    label_maps = _label_maps()
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(B, C, H, W, generator=generator)
    void = (label_maps == VOID)[:, None]
    other = torch.where(void, 100 * torch.randn(B, C, H, W, generator=generator), logits)
    results = []
    for values in (logits, other):
        output = ClassLogits(values.requires_grad_(), None, stride=1)
        losses = segmentation_loss(output, label_maps, CONFIG)
        gradient = _gradients(losses, output)[0]
        assert not gradient[void.expand_as(gradient)].any()
        results.append([losses.total.detach(), losses.accuracy, gradient])
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_padding_has_no_influence_beyond_its_neighbours() -> None:
    """A cell all of whose pixels are beyond the image, and all that they blend with, is free."""
    label_maps = _label_maps()[:, :12, :12]
    logits = torch.randn(B, C, 4, 4, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[..., 2:, :] += 7  # from pixel 16 on; pixel 12 is where it begins to blend in
    other[..., :, 2:] -= 7
    first, second = (
        segmentation_loss(ClassLogits(values, None, stride=8), label_maps, CONFIG).total
        for values in (logits, other)
    )
    assert torch.equal(first, second)


def test_a_batch_without_a_counted_pixel_has_neither_loss_nor_gradient() -> None:
    """All is 0 and finite, and the network stays in the graph."""
    output = _logits()
    label_maps = torch.full((B, H, W), VOID, dtype=torch.int16)
    assert count_valid(label_maps) == 0
    losses = segmentation_loss(output, label_maps, CONFIG)
    assert losses.auxiliary is not None
    for term in (losses.total, losses.cross_entropy, losses.auxiliary, losses.accuracy):
        assert term.item() == 0
    for gradient in _gradients(losses, output):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_micro_batches_add_up_to_the_batch() -> None:
    """Losses, accuracies and gradients, though one part has no counted pixel at all."""
    output, label_maps = _logits(), _label_maps()
    whole = segmentation_loss(output, label_maps, CONFIG)
    expected = _gradients(whole, output)
    valid = valid_per_rank(count_valid(label_maps))
    assert output.auxiliary is not None
    parts = [
        segmentation_loss(
            ClassLogits(output.logits[part], output.auxiliary[part], STRIDE),
            label_maps[part],
            CONFIG,
            valid,
        )
        for part in (slice(0, 1), slice(1, 4))
    ]
    for name in ("total", "cross_entropy", "auxiliary", "accuracy"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name))
    gradients = [_gradients(part, output) for part in parts]
    for actual, gradient in zip(zip(*gradients, strict=True), expected, strict=True):
        torch.testing.assert_close(sum(actual), gradient, atol=1e-7, rtol=1e-5)


def test_the_loss_is_computed_in_float32() -> None:
    """Within autocast, and for logits of half precision."""
    output, label_maps = _logits(auxiliary=False), _label_maps()
    half = ClassLogits(output.logits.detach().bfloat16(), None, STRIDE)
    with torch.autocast("cpu", torch.bfloat16):
        losses = segmentation_loss(half, label_maps, CONFIG)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total, _by_torch(half.logits.float(), label_maps))


def test_logits_at_full_size_are_not_kept_for_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both heads and all images, less is saved than the logits of one at the size of pixels."""
    monkeypatch.setattr(segmentation, "_LOGITS_AT_ONCE", 1)
    saved = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel() * tensor.is_floating_point())
        return tensor

    output, label_maps = _logits(), _label_maps()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        segmentation_loss(output, label_maps, CONFIG)
    assert 0 < sum(saved) < C * H * W
