"""The heads are those of mmsegmentation, as transformers has them."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from transformers import BeitConfig, UperNetConfig
from transformers.models.beit.modeling_beit import BeitFCNHead, BeitUperHead
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from sseg_core.models.upernet import FCNHead, UperHead

WIDTH, CLASSES, B = 12, 5, 3
POOLS = (1, 2, 3, 6)
BEIT_WIDTHS = (WIDTH,) * 4  # its head is as wide as its levels
UPERNET_WIDTHS = (6, 8, 10, 14)

# Ours (left) and those of BEiT and of UperNet; `N` and `C` stand for norm and convolution.
RENAMES = (
    (r"^pools\.(\d)\.1\.0", r"psp_modules.blocks.\1.conv.C", r"psp_modules.\1.1.C"),
    (r"^pools\.(\d)\.1\.1", r"psp_modules.blocks.\1.conv.N", r"psp_modules.\1.1.N"),
    (r"^pooled\.0", "psp_bottleneck.C", "bottleneck.C"),
    (r"^pooled\.1", "psp_bottleneck.N", "bottleneck.N"),
    (r"^laterals\.(\d)\.0", r"lateral_convs.\1.C", r"lateral_convs.\1.C"),
    (r"^laterals\.(\d)\.1", r"lateral_convs.\1.N", r"lateral_convs.\1.N"),
    (r"^smoothings\.(\d)\.0", r"fpn_convs.\1.C", r"fpn_convs.\1.C"),
    (r"^smoothings\.(\d)\.1", r"fpn_convs.\1.N", r"fpn_convs.\1.N"),
    (r"^fusion\.0", "fpn_bottleneck.C", "fpn_bottleneck.C"),
    (r"^fusion\.1", "fpn_bottleneck.N", "fpn_bottleneck.N"),
    (r"^convolution\.0", "convs.0.C", "convs.0.C"),
    (r"^convolution\.1", "convs.0.N", "convs.0.N"),
)
BLOCKS = {"beit": ("convolution", "normalization"), "upernet": ("conv", "batch_norm")}


def _their_name(name: str, family: str) -> str:
    for pattern, beit, upernet in RENAMES:
        name = re.sub(pattern, beit if family == "beit" else upernet, name)
    convolution, norm = BLOCKS[family]
    return name.replace(".C.", f".{convolution}.").replace(".N.", f".{norm}.")


def _theirs(family: str, part: str) -> nn.Module:
    if family == "beit":
        config = BeitConfig(
            hidden_size=WIDTH, num_labels=CLASSES, pool_scales=POOLS, auxiliary_channels=7
        )
        return BeitUperHead(config) if part == "head" else BeitFCNHead(config)
    config = UperNetConfig(
        hidden_size=WIDTH, num_labels=CLASSES, pool_scales=POOLS, auxiliary_channels=7,
        auxiliary_in_channels=UPERNET_WIDTHS[2],
    )  # fmt: skip
    if part == "head":
        return UperNetHead(config, list(UPERNET_WIDTHS))
    return UperNetFCNHead(config, list(UPERNET_WIDTHS))


def _ours(family: str, part: str) -> UperHead | FCNHead:
    widths = BEIT_WIDTHS if family == "beit" else UPERNET_WIDTHS
    if part == "head":
        return UperHead(widths, WIDTH, CLASSES, pool_sizes=POOLS, dropout=0.0)
    return FCNHead(widths[2], 7, CLASSES, dropout=0.0)


def _levels(family: str, *, odd: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(17, 23), (9, 11), (5, 7), (3, 3)] if odd else [(16, 24), (8, 12), (4, 6), (2, 3)]
    widths = BEIT_WIDTHS if family == "beit" else UPERNET_WIDTHS
    return [
        torch.randn(B, width, *size, generator=generator).requires_grad_()
        for width, size in zip(widths, sizes, strict=True)
    ]


@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("part", ["head", "auxiliary"])
@pytest.mark.parametrize("family", ["beit", "upernet"])
def test_the_heads_are_those_of_transformers(
    family: str, part: str, training: bool, odd: bool
) -> None:
    """Given the same weights, logits agree to 1e-5, and so do gradients and batch statistics."""
    torch.manual_seed(0)
    theirs, ours = _theirs(family, part).train(training), _ours(family, part).train(training)
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Norms start at 1 and 0, where a mistake would not show.
            parameter.add_(0.1 * torch.randn_like(parameter))
    source = theirs.state_dict()
    names = {name: _their_name(name, family) for name in ours.state_dict()}
    assert set(names.values()) == set(source)
    ours.load_state_dict({name: source[other] for name, other in names.items()})

    own_levels, other_levels = _levels(family, odd=odd), _levels(family, odd=odd)
    own = ours(own_levels if part == "head" else own_levels[2])
    other = theirs(other_levels)
    torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    for logits in (own, other):
        logits.sin().mean().backward()
    for actual, expected in zip(own_levels, other_levels, strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[names[name]], atol=1e-5, rtol=1e-5)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[names[name]], atol=1e-5, rtol=1e-5)


def test_weights_start_as_in_mmsegmentation() -> None:
    """The classifier is normal with 0.01 and no bias, convolutions Kaiming normal by fan-out."""
    torch.manual_seed(0)
    head = UperHead((32, 64), 64, 500, pool_sizes=(1,), dropout=0.1)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.classifier.bias is not None
    assert not head.classifier.bias.any()
    convolution = head.fusion[0]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is None
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


@pytest.mark.parametrize("part", ["head", "auxiliary"])
def test_dropout_leaves_out_whole_channels_in_training_only(part: str) -> None:
    """What reaches the classifier has channels that are 0 everywhere, the others doubled."""
    torch.manual_seed(0)
    level = torch.randn(2, 8, 4, 4)
    if part == "head":
        head: UperHead | FCNHead = UperHead((8, 8), 64, 3, pool_sizes=(2,), dropout=0.5)
        given: Tensor | list[Tensor] = [level, level[..., :2, :2]]
    else:
        head, given = FCNHead(8, 64, 3, dropout=0.5), level
    seen: dict[str, Tensor] = {}
    head.dropout.register_forward_hook(
        lambda module, inputs, output: seen.update(before=inputs[0], after=output)
    )
    head(given)
    alive = seen["after"].flatten(2).any(dim=2) | ~seen["before"].flatten(2).any(dim=2)
    assert 0.3 < alive.float().mean() < 0.7
    torch.testing.assert_close(
        seen["after"], 2 * seen["before"] * alive[..., None, None], atol=0, rtol=0
    )
    head.eval()
    head(given)
    assert torch.equal(seen["after"], seen["before"])
