"""Options of the network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sseg_core.config.base import Config


class BackboneConfig(Config):
    """A timm `features_only` model."""

    name: str = Field("swin_small_patch4_window7_224", description="timm model name")
    pretrained: bool = Field(
        False, description="start from timm's pretrained weights (needs the hub or its cache)"
    )
    weights: str | None = Field(
        None, description="local weight file to start from instead, in timm's naming"
    )
    frozen: bool = Field(False, description="keep the backbone's weights as they start")
    out_indices: tuple[int, ...] | None = Field(
        None, description="feature levels to use, finest first; default: all"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model"
    )


class DecoderConfig(Config):
    """FPN pixel decoder and transformer decoder (paper Sec. 3.2, App. A.1)."""

    num_queries: int = Field(
        64, ge=1, description="N, mask queries; of pseudomask_vit: most segments"
    )
    hidden_dim: int = Field(256, ge=8, description="width of both decoders")
    layers: int = Field(6, ge=1, description="transformer decoder layers")
    heads: int = Field(8, ge=1, description="attention heads")
    feedforward_dim: int = Field(2048, ge=8, description="hidden width of the feed-forward blocks")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the transformer decoder")
    mask_feature: Literal["query", "pooled"] = Field(
        "query",
        description="what a mask is described by: its decoder query (the paper), or the "
        "mask-weighted mean of the pixel features",
    )
    masked_attention: bool = Field(
        False, description="cross-attention limited to each query's own mask, as in Mask2Former"
    )


class TextConfig(Config):
    """CLIP-style causal text transformer (paper App. A.1)."""

    layers: int = Field(12, ge=1, description="transformer layers")
    width: int = Field(256, ge=8, description="hidden width")
    heads: int = Field(4, ge=1, description="attention heads (our choice, not in the paper)")
    context_length: int = Field(77, ge=4, description="tokens per text, with [SOS] and [EOS]")
    template: str = Field(
        "{}",
        description="text around a class name at inference (our choice, not in the paper: the "
        "training texts are bare nouns and verbs)",
    )


class ModelConfig(Config):
    """The whole network: an image half that finds masks, and a text encoder."""

    architecture: Literal["sseg", "pseudomask_vit"] = Field(
        "sseg",
        description="sseg: MaskFormer without a classifier (paper Sec. 3.2); pseudomask_vit: a ViT "
        "whose tokens are pooled in each pseudo-mask (paper Sec. 4.1, baseline 2)",
    )
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    embed_dim: int = Field(256, ge=8, description="width of the common embedding space")
