"""Options of the stages that make data: `sseg download` and `sseg pseudomask`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sseg_core.config.base import Config
from sseg_core.structures import MAX_PIXELS


class ToyWorldConfig(Config):
    """The procedural scenes of `sseg download toyworld`."""

    scenes: int = Field(6000, ge=1, description="number of scenes")
    image_size: int = Field(96, ge=32, le=1024, description="side of a scene in pixels")
    seed: int = Field(0, ge=0, description="scenes are a function of the seed and their index")


class DownloadConfig(Config):
    """`sseg download SOURCE`: captioned images into shards."""

    source: str = Field(description="toyworld, or pairs:FILE with a jsonl, csv or tsv file")
    root: str | None = Field(None, description="folder of the images; default: the file's folder")
    limit: int | None = Field(None, ge=1, description="stop after this many images")
    shard_size: int = Field(500, ge=1, description="images per shard")
    max_side: int | None = Field(
        512, ge=32, description="shrink larger images to this long side; none keeps them"
    )
    jpeg_quality: int = Field(92, ge=1, le=100, description="quality of re-encoded images")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="refuse images with more pixels than this"
    )
    max_skip_rate: float = Field(
        0.5, ge=0, le=1, description="stop when more than this share of the samples is unusable"
    )
    toyworld: ToyWorldConfig = Field(default_factory=ToyWorldConfig)


class PseudomaskConfig(Config):
    """`sseg pseudomask`: class-agnostic label maps by clustering (paper Sec. 3.3.1)."""

    pairs: str | None = Field(
        None, description="pairs artifact, or shards such as s3://bucket/{00000..00999}.tar"
    )
    features: str = Field(
        "auto",
        description="texture, lab, rgb, dino_vits8, groupvit, timm:NAME, ...; auto takes "
        "dino_vits8 (the paper) where its weights are at hand, else texture",
    )
    facet: Literal["token", "key", "attention"] = Field(
        "token", description="what of a ViT's last block describes a patch (paper: its token)"
    )
    clustering: Literal["auto", "kmeans", "cosine", "spectral", "merge", "argmax"] = Field(
        "auto", description="how tokens become segments; auto: what suits the features"
    )
    weights: str | None = Field(
        None, description="local weight file for ViT features; default: the hub"
    )
    masks: int = Field(8, ge=2, le=254, description="K, segments per image (paper: 8)")
    image_size: int = Field(224, ge=32, description="images are resized to this square side")
    grid: int = Field(
        64, ge=8, le=256, description="side of the token grid of features without weights"
    )
    iterations: int = Field(20, ge=1, description="largest number of k-means iterations")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="type of a ViT's forward pass; auto: bf16 where the device is fast at it",
    )
    batch_size: int = Field(128, ge=1, description="images clustered at once")
    seed: int = Field(0, ge=0, description="seeds the k-means++ draw, together with the key")
    out: str | None = Field(
        None, description="folder or URL for the mask shards; default: in the artifact"
    )
    max_skip_rate: float = Field(
        0.5, ge=0, le=1, description="stop when more than this share of the samples is unusable"
    )
