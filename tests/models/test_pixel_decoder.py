"""The pixel decoder: shapes, and which level reaches which cell."""

from __future__ import annotations

import torch

from sseg_core.models.pixel_decoder import PixelDecoder


def test_both_results_lie_on_the_finest_grid() -> None:
    """Embeddings and features are [B, D, h, w] of the finest level; features are not negative."""
    decoder = PixelDecoder((6, 12, 24), width=16)
    levels = [torch.randn(2, c, 12 // s, 20 // s) for c, s in ((6, 1), (12, 2), (24, 4))]
    embedding, features = decoder(levels)
    assert (2, 16, 12, 20) == embedding.shape == features.shape
    assert features.min() == 0
    assert embedding.min() < 0


def test_one_level_is_enough() -> None:
    """A backbone with a single level needs no upsampling."""
    embedding, _ = PixelDecoder((5,), width=8)([torch.randn(1, 5, 3, 4)])
    assert embedding.shape == (1, 8, 3, 4)


def test_every_level_contributes() -> None:
    """The gradient of the embedding reaches each level."""
    levels = [torch.randn(1, 4, 8 // s, 8 // s, requires_grad=True) for s in (1, 2, 4)]
    embedding, _ = PixelDecoder((4, 4, 4), width=8)(levels)
    embedding.square().sum().backward()
    for level in levels:
        assert level.grad is not None
        assert level.grad.abs().sum() > 0


def test_groups_are_those_of_maskformer_at_its_width() -> None:
    """GroupNorm has MaskFormer's 32 groups at 256 channels, and 8 channels a group elsewhere."""
    for width, groups in ((256, 32), (96, 12), (8, 1)):
        norms = [
            module
            for module in PixelDecoder((4, 4), width).modules()
            if isinstance(module, torch.nn.GroupNorm)
        ]
        assert [groups] * 3 == [norm.num_groups for norm in norms]
