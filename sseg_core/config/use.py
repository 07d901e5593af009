"""Options of the stages that use a model: `sseg eval`, `sseg predict` and `sseg demo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sseg_core.config.base import Config
from sseg_core.config.data import PseudomaskConfig
from sseg_core.structures import MAX_PIXELS


class LookConfig(Config):
    """How images and words are shown to a model."""

    image_size: int | None = Field(
        None,
        ge=32,
        description="short side the model sees; default: the protocol's, else the model's (twice "
        "the training crop, 448 for the paper's)",
    )
    window: int | None = Field(
        None, ge=0, description="side of sliding windows, 0 for none; default: the protocol's"
    )
    stride: int | None = Field(
        None, ge=1, description="pixels from window to window; default: half a window"
    )
    blend: Literal["mean", "taper"] | None = Field(
        None,
        description="where windows overlap, all count the same (mean, as in the protocols), or "
        "less towards their borders, so that no seam shows (taper, as in predict)",
    )
    scales: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="sizes at which a checkpoint looks at an image, as factors of image_size, "
        "averaged; default: once, as it is",
    )
    flip: bool | None = Field(
        None, description="average over the image and its mirror image (checkpoints); default: no"
    )
    templates: tuple[str, ...] | None = Field(
        None,
        description="texts around a class name, {} in its place, averaged, or sets: simple, "
        "subset, custom, maskclip, imagenet80; default: the protocol's, else the model's",
    )
    logit_scale: float | None = Field(
        None, gt=0, description="factor of the similarities; default: the protocol's, else learned"
    )
    refine: Literal["none", "pamr"] | None = Field(
        None, description="let scores follow the image's colours; default: the protocol's, else no"
    )


class AskConfig(LookConfig):
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


class PredictConfig(LookConfig):
    """`sseg predict`: images and class names."""

    images: tuple[str, ...] = Field(
        description="files, folders, globs, http(s) URLs, or - for standard input"
    )
    classes: tuple[str, ...] = Field(
        min_length=1, description='class names; synonyms as "tv=television|tv monitor"'
    )
    model: str | None = Field(
        None,
        description="checkpoint, export, maskclip:ARCH, groupvit, ... or FILE.py:FUNCTION; "
        "default: the newest checkpoint",
    )
    weights: str | None = Field(None, description="weight file of a clip or groupvit model")
    threshold: float = Field(
        0.0, ge=0, le=1, description="pixels whose best probability is lower are background"
    )
    background_words: tuple[str, ...] | None = Field(
        None,
        description="words whose pixels are background; default: none, and common words where "
        "there is one class alone",
    )
    batch_size: int = Field(1, ge=1, description="images of equal size that go through together")
    npz: bool = Field(False, description="write the probabilities of all classes")
    viewer: int = Field(200, ge=0, description="images on the page to look at: the first ones")
    max_pixels: int = Field(
        MAX_PIXELS, ge=1, description="refuse images with more pixels than this"
    )
    max_megabytes: int = Field(200, ge=1, description="refuse larger files behind URLs")
    timeout: float = Field(30.0, gt=0, description="seconds to wait for a server")


class ExportConfig(Config):
    """`sseg export`: a checkpoint for use without torch."""

    model: str | None = Field(None, description="checkpoint; default: the newest")
    format: Literal["onnx"] = Field("onnx", description="of the graphs")
    precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32", description="of the weights; int8 quantises matrix products as they run"
    )
    scenes: int = Field(
        50, ge=0, description="toy scenes on which the change of the score is measured; 0 for none"
    )


class DemoConfig(Config):
    """`sseg demo`: the whole pipeline on the toy world."""

    scenes: int = Field(6000, ge=64, description="scenes to learn from")
    steps: int = Field(700, ge=1, description="training steps")
    val_scenes: int = Field(200, ge=1, description="held-out scenes to score")
    gallery: int = Field(8, ge=1, description="held-out scenes in the report: the first ones")
    seed: int = Field(0, ge=0, description="seed of the scenes and of the training")
