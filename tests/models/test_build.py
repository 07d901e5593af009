"""From a configuration to a network."""

from __future__ import annotations

import pytest
import torch

from sseg_core.config import BackboneConfig, DecoderConfig, ModelConfig, TextConfig
from sseg_core.models.build import build_model
from sseg_core.models.sseg import SSeg


@pytest.fixture(scope="module")
def swin() -> SSeg:
    """A small network with every kind of parameter: windows, positions, norms, tokens."""
    return build_model(
        ModelConfig(
            backbone=BackboneConfig(
                name="swin_tiny_patch4_window7_224",
                options={"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
            ),
            decoder=DecoderConfig(num_queries=3, hidden_dim=16, layers=1, heads=2),
            text=TextConfig(layers=1, width=16, heads=2, context_length=6),
            embed_dim=8,
        )
    )


def test_a_swin_network_runs_from_pixels_to_similarities(swin: SSeg) -> None:
    """What build_model returns is trainable and takes images of any size and token ids."""
    assert swin.training
    output = swin(torch.rand(2, 3, 50, 70), torch.tensor([[1, 49407], [2, 49407]]))
    assert output.masks.mask_logits.shape == (2, 3, 13, 18)
    assert output.image_features.shape == output.text_features.shape == (2, 8)


def test_the_default_network_is_the_papers() -> None:
    """Swin-S, 6 decoder layers 256 wide, 64 queries, 12 text layers (S-Seg App. A.1)."""
    with torch.device("meta"):
        model = build_model(ModelConfig())
    parts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    # timm's Swin-S without a head, with a norm per level in place of its last one.
    assert parts["backbone"] == 48_837_258 - 2 * 768 + 2 * (96 + 192 + 384 + 768)
    assert model.backbone.channels == (96, 192, 384, 768)
    assert model.mask_decoder.query_position.shape == (64, 256)
    assert len(model.mask_decoder.layers) == 6
