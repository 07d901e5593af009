"""Our network computes what transformers' MaskFormer computes, given the same weights."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

from sseg_core.config import BackboneConfig, DecoderConfig, ModelConfig
from sseg_core.models.sseg import SSeg

# Names of ours (left) and of transformers (right). `qkv` is one tensor here and three there.
_BACKBONE = "model.pixel_level_module.encoder."
_SWIN = _BACKBONE + "model."
_LAYER = "model.transformer_module.decoder.layers."
RENAMES = (
    (r"^backbone\.body\.patch_embed\.proj\.", _SWIN + "embeddings.patch_embeddings.projection."),
    (r"^backbone\.body\.patch_embed\.norm\.", _SWIN + "embeddings.norm."),
    (r"^backbone\.norms\.", _BACKBONE + "hidden_states_norms."),
    (r"^backbone\.body\.layers_(\d)\.downsample\.",
     lambda m: f"{_SWIN}encoder.layers.{int(m[1]) - 1}.downsample."),
    (r"^backbone\.body\.layers_(\d)\.", _SWIN + r"encoder.layers.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.relative", ".attention.self.relative"),
    (r"\.attn\.qkv\.", ".attention.self.query+key+value."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^pixel_decoder\.coarsest\.", "model.pixel_level_module.decoder.fpn.stem."),
    (r"^pixel_decoder\.laterals\.(\d)\.",
     r"model.pixel_level_module.decoder.fpn.layers.\1.proj."),
    (r"^pixel_decoder\.smoothings\.(\d)\.",
     r"model.pixel_level_module.decoder.fpn.layers.\1.block."),
    (r"^pixel_decoder\.pixel_embedding\.", "model.pixel_level_module.decoder.mask_projection."),
    (r"^mask_decoder\.input_projection\.", "model.transformer_module.input_projection."),
    (r"^mask_decoder\.query_position$", "model.transformer_module.queries_embedder.weight"),
    (r"^mask_decoder\.norm\.", "model.transformer_module.decoder.layernorm."),
    (r"^mask_decoder\.mask_embedder\.(\d)\.", lambda m: f"mask_embedder.{int(m[1]) // 2}.0."),
    (r"^mask_decoder\.layers\.", _LAYER),
    (r"\.self_attention_norm\.", ".self_attn_layer_norm."),
    (r"\.cross_attention_norm\.", ".encoder_attn_layer_norm."),
    (r"\.feedforward_norm\.", ".final_layer_norm."),
    (r"\.feedforward\.0\.", ".mlp.fc1."),
    (r"\.feedforward\.3\.", ".mlp.fc2."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".encoder_attn."),
    (r"_attn\.(query|key|value|output)\.", lambda m: f"_attn.{m[1][0]}_proj."),
)  # fmt: skip
OURS_ALONE = re.compile("text_encoder|text_projection|mask_projection|logit_scale")


def _theirs_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def models() -> tuple[SSeg, MaskFormerForInstanceSegmentation]:
    """Swin-S, N = 64, the paper's sizes; their random weights copied into ours."""
    torch.manual_seed(0)
    theirs = MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            fpn_feature_size=256,
            mask_feature_size=256,
            backbone_config=SwinConfig(
                image_size=224, depths=[2, 2, 18, 2], embed_dim=96, num_heads=[3, 6, 12, 24],
                window_size=7, out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            decoder_config=DetrConfig(num_queries=64),
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # These start at 0 or 1, where a mistake would not show.
            if parameter.ndim == 1 or "relative_position_bias_table" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    ours = SSeg(
        ModelConfig(
            # The original Swin shifts its windows also where one window covers the whole map.
            backbone=BackboneConfig(options={"always_partition": True}),
            decoder=DecoderConfig(num_queries=64),
        ),
        text_encoder=nn.Identity(),
    ).eval()
    source = theirs.state_dict()
    weights: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, tensor in ours.state_dict().items():
        if OURS_ALONE.match(name):
            weights[name] = tensor
            continue
        head, plus, tail = _theirs_name(name).partition("query+key+value")
        names = [head + part + tail for part in ("query", "key", "value")] if plus else [head]
        used.update(names)
        weights[name] = torch.cat([source[part] for part in names])
    ours.load_state_dict(weights)
    left = {name for name in source if name not in used and "relative_position_index" not in name}
    assert all("class_predictor" in n or "model.layernorm" in n or "criterion" in n for n in left)
    return ours, theirs


Pair = tuple[SSeg, MaskFormerForInstanceSegmentation]
# float32 through 24 + 6 layers; values are of the order of 1.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(224, 224), (224, 448)])
def test_masks_and_queries_are_those_of_transformers(models: Pair, height: int, width: int) -> None:
    """The final queries and the mask logits after each decoder layer agree to 1e-4.

    The sizes need no padding of windows: there timm shifts first and pads afterwards, while
    transformers pads first, and neither is part of this project.
    """
    ours, theirs = models
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actual = ours.encode_images(images)
        expected = theirs((images - ours.mean) / ours.std, output_hidden_states=True)
        # transformers keeps the states before the norm, the zeros before the first layer first.
        norm = theirs.model.transformer_module.decoder.layernorm
        auxiliary = [
            torch.einsum(
                "bqc,bchw->bqhw",
                theirs.mask_embedder(norm(state)),
                expected.pixel_decoder_last_hidden_state,
            )
            for state in expected.transformer_decoder_hidden_states[1:-1]
        ]
    assert expected.masks_queries_logits.std() > 0.05  # else agreement would say nothing
    torch.testing.assert_close(
        actual.mask_features, expected.transformer_decoder_last_hidden_state, **TOLERANCE
    )
    torch.testing.assert_close(actual.mask_logits, expected.masks_queries_logits, **TOLERANCE)
    assert len(actual.auxiliary_mask_logits) == len(auxiliary) == 5
    for our_logits, their_logits in zip(actual.auxiliary_mask_logits, auxiliary, strict=True):
        torch.testing.assert_close(our_logits, their_logits, **TOLERANCE)


@pytest.mark.slow
def test_decoders_agree_at_any_size(models: Pair) -> None:
    """Given the same backbone levels, of 192 x 320 pixels, both decoders agree to 1e-4."""
    ours, theirs = models
    generator = torch.Generator().manual_seed(2)
    levels = [
        torch.randn(2, channels, 192 // stride, 320 // stride, generator=generator)
        for channels, stride in zip(ours.backbone.channels, ours.backbone.strides, strict=True)
    ]
    with torch.no_grad():
        embedding, _ = ours.pixel_decoder(levels)
        queries, _ = ours.mask_decoder(levels[-1], embedding)
        their_embedding = theirs.model.pixel_level_module.decoder(levels).last_hidden_state
        their_queries = theirs.model.transformer_module(levels[-1]).last_hidden_state
    torch.testing.assert_close(embedding, their_embedding, **TOLERANCE)
    torch.testing.assert_close(queries, their_queries, **TOLERANCE)
