"""Options of the stages that make data: `sseg download` and `sseg pseudomask`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sseg_core.config.base import Config
from sseg_core.structures import MAX_PIXELS


class ToyWorldConfig(Config):
    """The procedural scenes of `sseg download toyworld`."""

    scenes: int = Field(6000, ge=1, description="number of scenes")
    image_size: int = Field(96, ge=32, le=1024, description="side of a scene in pixels")
    seed: int = Field(0, ge=0, description="scenes are a function of the seed and their index")


class FetchConfig(Config):
    """How single images are fetched from the web."""

    connections: int = Field(256, ge=1, description="images asked for at once, in all")
    per_host: int = Field(32, ge=1, description="of these, from one host")
    processes: int | None = Field(
        None, ge=1, description="processes that fetch and shrink; default: one per core"
    )
    timeout_s: float = Field(15.0, gt=0, description="seconds for one attempt, from start to end")
    attempts: int = Field(2, ge=1, description="attempts for each image, where another may succeed")
    max_bytes: int = Field(32_000_000, ge=1, description="refuse larger image files")
    max_redirects: int = Field(5, ge=0, description="follow at most this many redirects")
    private_addresses: bool = Field(
        False, description="also fetch from addresses of this machine and of local networks"
    )
    refusals: tuple[str, ...] = Field(
        ("noai", "noimageai"), description="words of X-Robots-Tag headers that are respected"
    )
    user_agent: str = Field(
        "Mozilla/5.0 (compatible; sseg)", min_length=1, description="as servers see it"
    )
    url_column: str | None = Field(None, description="column of the URLs; default: found by name")
    caption_column: str | None = Field(
        None, description="column of the captions; default: found by name"
    )


class HubConfig(Config):
    """Which files of a webdataset on the hub are taken."""

    pattern: str | None = Field(
        None, description="pattern of the shards, such as train-*.tar; default: those for training"
    )
    revision: str | None = Field(None, description="branch, tag or commit; default: the newest")


class DownloadConfig(Config):
    """`sseg download SOURCE`: captioned images into shards."""

    source: str = Field(description="name of a source, or pairs:FILE, urls:FILE, hf:ORG/NAME, ...")
    root: str | None = Field(None, description="folder of the images; default: the file's folder")
    limit: int | None = Field(None, ge=1, description="stop after this many images")
    part: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]{0,3}/[1-9][0-9]{0,3}$",
        description="make only part i of n of the shards, such as 1/4, on one of n machines",
    )
    shard_size: int = Field(500, ge=1, description="images per shard")
    max_side: int | None = Field(
        512, ge=32, description="shrink larger images to this long side; none keeps them"
    )
    short_side: int | None = Field(
        None, ge=32, description="shrink images to this short side, where that is smaller"
    )
    jpeg_quality: int = Field(92, ge=1, le=100, description="quality of re-encoded images")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="refuse images with more pixels than this"
    )
    min_success: float = Field(
        0.5, ge=0, le=1, description="stop when less than this share of the images is usable"
    )
    fetch: FetchConfig = Field(default_factory=FetchConfig)
    hub: HubConfig = Field(default_factory=HubConfig)
    toyworld: ToyWorldConfig = Field(default_factory=ToyWorldConfig)

    @model_validator(mode="after")
    def _part_is_one_of_n(self) -> Self:
        number, count = self.part_of
        if number > count:
            raise ValueError(f"part {self.part} is none: i is at most n")
        return self

    @property
    def part_of(self) -> tuple[int, int]:
        """The part i and the number n of parts; (1, 1) for all."""
        number, _, count = (self.part or "1/1").partition("/")
        return int(number), int(count)


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
