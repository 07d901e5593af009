"""The whole loss: Eq. 4, layers, normalisation, precision, and who gets gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from sseg_core.config import LossConfig
from sseg_core.losses.criterion import criterion
from sseg_core.losses.mask_targets import mask_targets
from sseg_core.losses.matcher import match, matching_costs, send_costs
from sseg_core.structures import IGNORE_LABEL, LossTerms, MaskOutput, SegmenterOutput

B, Q, h, w = 4, 6, 8, 8
K = 4


def _output(seed: int = 0, layers: int = 2) -> SegmenterOutput:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SegmenterOutput(
        masks=MaskOutput(
            mask_logits=(2 * normal(B, Q, h, w)).requires_grad_(),
            mask_features=normal(B, Q, 5),
            auxiliary_mask_logits=tuple(
                (2 * normal(B, Q, h, w)).requires_grad_() for _ in range(layers)
            ),
            stride=4,
        ),
        image_features=F.normalize(normal(B, 5), dim=1).requires_grad_(),
        text_features=F.normalize(normal(B, 5), dim=1).requires_grad_(),
        logit_scale=torch.tensor(10.0, requires_grad=True),
    )


def _label_maps(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 4, (B, 4, 4), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)


def _with_masks(output: SegmenterOutput, **changes: object) -> SegmenterOutput:
    return dataclasses.replace(output, masks=dataclasses.replace(output.masks, **changes))


def _values(terms: LossTerms) -> list[float]:
    return [value.item() for value in terms.detached().values()]


def test_the_total_is_the_weighted_sum_over_all_layers() -> None:
    """Eq. 4 with the mask losses of each layer added, as in MaskFormer."""
    output, label_maps = _output(), _label_maps()
    config = LossConfig(mask=0.5, contrastive=2, dice=3, focal=7)
    terms = criterion(output, label_maps, K, config)
    expected = 2 * terms.contrastive
    for logits in (output.masks.mask_logits, *output.masks.auxiliary_mask_logits):
        alone = criterion(
            _with_masks(output, mask_logits=logits, auxiliary_mask_logits=()), label_maps, K, config
        )
        expected = expected + 0.5 * (3 * alone.dice + 7 * alone.focal)
    torch.testing.assert_close(terms.total, expected)


def test_the_reported_mask_terms_are_those_of_the_last_layer() -> None:
    """Dice and focal do not depend on whether auxiliary losses are on; the total does."""
    output, label_maps = _output(), _label_maps()
    full = criterion(output, label_maps, K, LossConfig())
    last = criterion(output, label_maps, K, LossConfig(auxiliary=False))
    assert (full.dice.item(), full.focal.item()) == (last.dice.item(), last.focal.item())
    assert full.total > last.total


def test_unmatched_queries_get_exactly_no_mask_gradient() -> None:
    """S-Seg does not penalise unmatched queries: their gradient is zero, the others' is not."""
    output, label_maps = _output(layers=0), _label_maps()
    criterion(output, label_maps, K, LossConfig()).total.backward()
    logits = output.masks.mask_logits
    targets = mask_targets(label_maps, (h, w), K)
    matching = match(
        send_costs([matching_costs(logits.detach(), targets, LossConfig())], targets.present)
    )
    matched = torch.zeros(B, Q, dtype=torch.bool)
    matched[matching.images, matching.queries[0]] = True
    assert logits.grad is not None
    has_gradient = logits.grad.abs().amax((2, 3)) > 0
    assert torch.equal(has_gradient, matched)
    assert not matched.all()


def test_a_batch_without_masks_has_mask_losses_of_zero_with_a_graph() -> None:
    """All label maps ignored: only the contrastive loss trains, and backward still works."""
    output = _output()
    label_maps = torch.full((B, 32, 32), IGNORE_LABEL, dtype=torch.uint8)
    terms = criterion(output, label_maps, K, LossConfig())
    assert (terms.dice.item(), terms.focal.item()) == (0, 0)
    assert terms.total.item() == terms.contrastive.item()
    terms.total.backward()
    for logits in (output.masks.mask_logits, *output.masks.auxiliary_mask_logits):
        assert logits.grad is not None
        assert logits.grad.abs().max() == 0


def test_the_mask_losses_are_means_over_the_masks_of_the_batch() -> None:
    """A batch weighs each image by its masks: batched equals the mean of the single ones."""
    output, label_maps = _output(), _label_maps()
    label_maps[2] = IGNORE_LABEL
    whole = criterion(output, label_maps, K, LossConfig())
    counts = mask_targets(label_maps, (h, w), K).present.sum(1).tolist()
    dice = focal = 0.0
    for i, count in enumerate(counts):
        one = SegmenterOutput(
            MaskOutput(output.masks.mask_logits[i : i + 1], output.masks.mask_features, (), 4),
            output.image_features[i : i + 1],
            output.text_features[i : i + 1],
            output.logit_scale,
        )
        terms = criterion(one, label_maps[i : i + 1], K, LossConfig())
        dice += count * terms.dice.item()
        focal += count * terms.focal.item()
    assert whole.dice.item() == pytest.approx(dice / sum(counts), rel=1e-5)
    assert whole.focal.item() == pytest.approx(focal / sum(counts), rel=1e-5)


def test_the_numbering_of_segments_and_the_order_of_queries_are_irrelevant() -> None:
    """Renaming the segment ids or permuting the queries leaves every term as it is."""
    output, label_maps = _output(), _label_maps()
    expected = pytest.approx(_values(criterion(output, label_maps, K, LossConfig())), rel=1e-5)
    names = torch.tensor([9, 200, 4, 77], dtype=torch.uint8)
    assert _values(criterion(output, names[label_maps.long()], 254, LossConfig())) == expected
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = _with_masks(
        output,
        mask_logits=output.masks.mask_logits[:, order],
        auxiliary_mask_logits=tuple(t[:, order] for t in output.masks.auxiliary_mask_logits),
    )
    assert _values(criterion(permuted, label_maps, K, LossConfig())) == expected


def test_logits_under_ignored_pixels_change_nothing() -> None:
    """What the network says where there is no label enters neither matching nor loss."""
    output, label_maps = _output(layers=0), _label_maps()
    label_maps[:, :, 16:] = IGNORE_LABEL
    changed = output.masks.mask_logits.detach().clone()
    changed[:, :, :, 4:] = 50
    expected = _values(criterion(output, label_maps, K, LossConfig()))
    actual = _values(
        criterion(_with_masks(output, mask_logits=changed), label_maps, K, LossConfig())
    )
    assert actual == pytest.approx(expected, rel=1e-6)


def test_autocast_does_not_reach_the_losses() -> None:
    """Under bf16 autocast every term is fp32 and equal to the one without autocast."""
    output, label_maps = _output(), _label_maps()
    expected = _values(criterion(output, label_maps, K, LossConfig()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = criterion(output, label_maps, K, LossConfig())
    assert _values(terms) == expected
    assert terms.total.dtype == torch.float32


def test_half_precision_outputs_are_taken_as_fp32() -> None:
    """A network that returns bf16 gets an fp32 loss and bf16 gradients."""
    output = _output(layers=0)
    half = output.masks.mask_logits.detach().bfloat16().requires_grad_()
    terms = criterion(_with_masks(output, mask_logits=half), _label_maps(), K, LossConfig())
    terms.total.backward()
    assert terms.total.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_a_non_finite_logit_makes_a_non_finite_loss_rather_than_an_error() -> None:
    """The training loop, not scipy, finds out: the matcher survives and the loss says NaN."""
    output, label_maps = _output(layers=0), _label_maps()
    broken = torch.full((B, Q, h, w), float("nan"))
    terms = criterion(_with_masks(output, mask_logits=broken), label_maps, K, LossConfig())
    assert torch.isnan(terms.total)


def test_the_host_reads_from_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets, matching, all losses and their gradients wait for one copy, that of the costs."""
    copies = []
    original = torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tuple(tensor.shape))
        return original(tensor)

    output, label_maps = _output(), _label_maps()
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, None)  # each would be another wait
    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    criterion(output, label_maps, K, LossConfig()).total.backward()
    assert copies == [(B, 3 * Q + 1, K)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_loss_and_is_not_waited_for() -> None:
    """On a GPU the copy of the costs is awaited by an event; whatever else would wait is an error.

    The values and gradients are those of the CPU.
    """
    expected = criterion(_output(), _label_maps(), K, LossConfig())
    output = _output()
    leaves = (output.masks.mask_logits, *output.masks.auxiliary_mask_logits)
    last, *auxiliary = (logits.detach().cuda().requires_grad_() for logits in leaves)
    on_gpu = dataclasses.replace(
        _with_masks(output, mask_logits=last, auxiliary_mask_logits=tuple(auxiliary)),
        image_features=output.image_features.cuda(),
        text_features=output.text_features.cuda(),
        logit_scale=output.logit_scale.cuda(),
    )
    label_maps = _label_maps().cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = criterion(on_gpu, label_maps, K, LossConfig())
        terms.total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert _values(terms) == pytest.approx(_values(expected), rel=1e-5)
    criterion(output, _label_maps(), K, LossConfig()).total.backward()
    for theirs, ours in zip(leaves, (last, *auxiliary), strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
