"""Options of the stages that use a model: `sseg eval`, `sseg predict` and `sseg demo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sseg_core.config.base import MAX_PIXELS, Config
from sseg_core.config.data import PseudomaskConfig


class EvalConfig(Config):
    """`sseg eval`: a model, a benchmark and a protocol."""

    benchmark: str = Field("toyworld", description="toyworld, voc2012 or context")
    root: str | None = Field(None, description="folder of the benchmark")
    split: str = Field("val", description="split of the benchmark")
    model: str | None = Field(
        None,
        description="checkpoint, oracle:FEATURES or oracle:all; default: the newest checkpoint",
    )
    limit: int | None = Field(None, ge=1, description="evaluate only the first images")
    image_size: int | None = Field(
        None, ge=32, description="short side the model sees; default: the protocol's"
    )
    background: Literal["threshold", "exclude"] = Field(
        "threshold",
        description="background pixels predicted by the threshold, or left out (paper Table 4)",
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="background threshold; default: the benchmark's"
    )
    template: str | None = Field(
        None, description="text around a class name, {} in its place; default: the model's"
    )
    batch_size: int = Field(8, ge=1, description="images at once")
    oracle: PseudomaskConfig = Field(
        default_factory=PseudomaskConfig, description="the generator of an oracle:FEATURES model"
    )
    seed: int = Field(0, ge=0, description="seed of the toy world")


class PredictConfig(Config):
    """`sseg predict`: images and class names."""

    images: tuple[str, ...] = Field(description="files, folders or globs")
    classes: tuple[str, ...] = Field(min_length=1, description="class names")
    model: str | None = Field(None, description="checkpoint; default: the newest")
    threshold: float = Field(
        0.0, ge=0, le=1, description="pixels whose best probability is lower are background"
    )
    image_size: int | None = Field(
        None,
        ge=32,
        description="short side the model sees; default: twice the training crop, "
        "448 for the paper's",
    )
    template: str | None = Field(
        None, description="text around a class name, {} in its place; default: the model's"
    )
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="refuse images with more pixels than this"
    )


class DemoConfig(Config):
    """`sseg demo`: the whole pipeline on the toy world."""

    scenes: int = Field(6000, ge=64, description="scenes to learn from")
    steps: int = Field(700, ge=1, description="training steps")
    val_scenes: int = Field(200, ge=1, description="held-out scenes to score")
    gallery: int = Field(8, ge=1, description="held-out scenes in the report: the first ones")
    seed: int = Field(0, ge=0, description="seed of the scenes and of the training")
