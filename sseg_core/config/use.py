"""Options of the stages that use a model: `sseg eval`, `sseg predict` and `sseg demo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sseg_core.config.base import MAX_PIXELS, Config
from sseg_core.config.data import PseudomaskConfig


class AskConfig(Config):
    """A model, a benchmark, and how the one is asked for the classes of the other."""

    benchmark: str = Field("toyworld", description="a name of `sseg eval --help`, or folder:DIR")
    root: str | None = Field(None, description="folder of the benchmark")
    split: str = Field("val", description="split of the benchmark")
    model: str | None = Field(
        None,
        description="checkpoint, oracle:FEATURES, oracle:all, clip:ARCH, maskclip:ARCH, "
        "pseudomask-clip:ARCH, groupvit or FILE.py:FUNCTION; default: the newest checkpoint",
    )
    weights: str | None = Field(None, description="weight file of a clip or groupvit model")
    limit: int | None = Field(None, ge=1, description="take only the first images")
    protocol: str = Field("sseg", description="sseg, groupvit, tcl or sclip")
    image_size: int | None = Field(
        None, ge=32, description="short side the model sees; default: the protocol's"
    )
    window: int | None = Field(
        None, ge=0, description="side of sliding windows, 0 for none; default: the protocol's"
    )
    stride: int | None = Field(
        None, ge=1, description="pixels from window to window; default: the protocol's"
    )
    scales: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="sizes at which a checkpoint looks at an image, as factors of image_size, "
        "averaged; default: the protocol's",
    )
    flip: bool | None = Field(
        None,
        description="average over the image and its mirror image (checkpoints); default: the "
        "protocol's",
    )
    templates: tuple[str, ...] | None = Field(
        None,
        description="texts around a class name, {} in its place, or sets: simple, subset, custom, "
        "maskclip, imagenet80; default: the protocol's",
    )
    logit_scale: float | None = Field(
        None, gt=0, description="factor of the similarities; default: the protocol's"
    )
    refine: Literal["none", "pamr"] | None = Field(
        None, description="let scores follow the image's colours; default: the protocol's"
    )
    class_words: str | None = Field(
        None,
        description="file of the words for each class, a line each; default: the protocol's",
    )
    background: Literal["threshold", "words", "exclude"] | None = Field(
        None,
        description="background pixels predicted by the threshold, by background words, or left "
        "out (paper Table 4); default: the protocol's",
    )
    threshold: float | None = Field(
        None, ge=0, le=1, description="background threshold; default: the protocol's"
    )
    background_words: tuple[str, ...] | None = Field(
        None, min_length=1, description="words for background; default: the protocol's"
    )
    batch_size: int = Field(8, ge=1, description="images at once")
    seed: int = Field(0, ge=0, description="seed of the toy world")


class EvalConfig(AskConfig):
    """`sseg eval`: a model, a benchmark and a protocol."""

    sweep_threshold: bool = Field(False, description="score at every threshold")
    report: bool = Field(False, description="write a page to look at")
    gallery: int = Field(
        8, ge=1, le=50, description="images of the page: half the best, half the worst"
    )
    check: str | None = Field(
        None, description="row of the paper to compare with, such as table3:S-Seg, or auto"
    )
    oracle: PseudomaskConfig = Field(
        default_factory=PseudomaskConfig, description="the generator of an oracle:FEATURES model"
    )


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
