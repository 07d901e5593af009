"""The pyramid behind a plain ViT is BEiT's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BeitConfig
from transformers.models.beit.modeling_beit import BeitFPNNeck

from sseg_core.models.feature_pyramid import SCALES, FeaturePyramid

WIDTH = 12
RENAMES = {
    "four_times.0": "fpn1.conv_transpose1",
    "four_times.1": "fpn1.normalization",
    "four_times.3": "fpn1.conv_transpose2",
    "twice": "fpn2",
}


def _levels(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, channels, 4, 6, generator=generator).requires_grad_() for channels in sizes
    ]


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_pyramid_is_that_of_transformers(training: bool) -> None:
    """Given the same weights, levels, gradients and batch statistics agree to 1e-5."""
    torch.manual_seed(0)
    theirs = BeitFPNNeck(BeitConfig(hidden_size=WIDTH)).train(training)
    ours = FeaturePyramid([WIDTH] * 4).train(training)
    own_names = ours.state_dict()
    source = theirs.state_dict()
    names = {
        name: f"{RENAMES[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in own_names
    }
    assert set(names.values()) == set(source)
    ours.load_state_dict({name: source[other] for name, other in names.items()})

    own_levels, other_levels = _levels(*[WIDTH] * 4), _levels(*[WIDTH] * 4)
    own, other = ours(own_levels), theirs(tuple(other_levels))
    for actual, expected in zip(own, other, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for maps in (own, other):
        sum(level.sin().sum() for level in maps).backward()
    for actual, expected in zip(own_levels, other_levels, strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[names[name]], atol=1e-4, rtol=1e-4)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[names[name]])


def test_each_level_keeps_its_channels_and_has_its_size() -> None:
    """4, 2, 1 and half as many rows and columns; blocks of a backbone may differ in width."""
    widths = (4, 8, 12, 16)
    for level, scale, width in zip(
        FeaturePyramid(widths)(_levels(*widths)), SCALES, widths, strict=True
    ):
        assert level.shape == (2, width, 4 * scale, 6 * scale)
