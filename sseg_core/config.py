"""Every option of every stage: one frozen pydantic model per stage, unknown keys refused.

The description of a field is its help text. Complete, named configurations are in `recipes.py`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sseg_core.errors import ConfigError, did_you_mean

MAX_PIXELS = 300_000_000
"""Images with more pixels are refused unless an option says otherwise: a decompression bomb."""


class Config(BaseModel):
    """Base of all configurations: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- download -----------------------------------------------------------------------------------


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


# --- pseudomask ---------------------------------------------------------------------------------


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


# --- model --------------------------------------------------------------------------------------


class BackboneConfig(Config):
    """A timm `features_only` model."""

    name: str = Field("swin_small_patch4_window7_224", description="timm model name")
    pretrained: bool = Field(
        False, description="start from timm's pretrained weights (needs the hub or its cache)"
    )
    out_indices: tuple[int, ...] | None = Field(
        None, description="feature levels to use, finest first; default: all"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model"
    )


class DecoderConfig(Config):
    """FPN pixel decoder and transformer decoder (paper Sec. 3.2, App. A.1)."""

    num_queries: int = Field(64, ge=1, description="N, mask queries")
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
    """The whole network: MaskFormer without a classifier, and a text encoder."""

    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    embed_dim: int = Field(256, ge=8, description="width of the common embedding space")


# --- train --------------------------------------------------------------------------------------


class LoaderConfig(Config):
    """How samples become batches."""

    load_size: int = Field(
        256, ge=32, description="images are decoded and resized to this square side"
    )
    crop_size: int = Field(224, ge=32, description="side of the random resized crop")
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="area of the crop, as a share of the image"
    )
    crop_ratio: tuple[float, float] = Field((0.75, 4 / 3), description="width / height of the crop")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color_jitter: float = Field(
        0.0, ge=0, le=1, description="strength of brightness, contrast and saturation jitter"
    )
    caption_words: Literal["nouns_verbs", "all"] = Field(
        "nouns_verbs", description="words of the caption to keep (paper App. A.1: nouns and verbs)"
    )
    word_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability to leave out each word of a caption, one at least stays; so that "
        "a text encoder that learns from few captions has met class names by themselves (our "
        "choice, not in the paper)",
    )
    shuffle_buffer: int = Field(2000, ge=1, description="samples held for shuffling, per worker")
    workers: int = Field(2, ge=0, description="loader processes; 0 loads in the main process")
    max_skip_rate: float = Field(
        0.5, ge=0, le=1, description="stop when more than this share of the samples is unusable"
    )


class LossConfig(Config):
    """Weights of Eq. 1 and Eq. 4."""

    mask: float = Field(1.0, ge=0, description="lambda_mask (Eq. 4)")
    contrastive: float = Field(1.0, ge=0, description="lambda_contrastive (Eq. 4)")
    dice: float = Field(1.0, ge=0, description="lambda_dice (Eq. 1)")
    focal: float = Field(20.0, ge=0, description="lambda_focal (Eq. 1)")
    auxiliary: bool = Field(
        True, description="mask loss after every decoder layer, as in MaskFormer"
    )


class OptimConfig(Config):
    """AdamW with warm-up and cosine decay (paper Table 5)."""

    lr: float = Field(5e-4, gt=0, description="base learning rate, reached after the warm-up")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the last step")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW momentum")
    clip_norm: float = Field(
        1.0, ge=0, description="gradient norm limit, 0 for none (our choice, not in the paper)"
    )
    warmup_epochs: float = Field(2.0, ge=0, description="warm-up, in epochs, where epochs are set")
    warmup_steps: int | None = Field(
        None, ge=0, description="warm-up, in steps; wins over warmup_epochs"
    )


class TrainConfig(Config):
    """`sseg train`: everything that determines a run, but for the machine it runs on."""

    recipe: str = Field("custom", description="the recipe this configuration started from")
    masks: str | None = Field(None, description="masks artifact; default: the newest")
    model: ModelConfig = Field(default_factory=ModelConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    batch_size: int = Field(4096, ge=2, description="images per step")
    epochs: float = Field(30, gt=0, description="passes over the pairs, counted in samples")
    steps: int | None = Field(None, ge=1, description="training steps; wins over epochs")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="autocast type; auto takes bf16 on a GPU that has it, else fp32"
    )
    seed: int = Field(0, ge=0, description="seeds weights, data order and augmentation")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="step checkpoints to keep")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")


# --- eval, predict ------------------------------------------------------------------------------


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


C = TypeVar("C", bound=Config)


def build_config(kind: type[C], values: dict[str, Any]) -> C:
    """Return `kind(**values)`, with pydantic's complaints turned into one sentence.

    Raises:
        ConfigError: an unknown field or a value out of range, named with its path.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error, kind) from error


def _as_config_error(error: ValidationError, kind: type[Config]) -> ConfigError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        known = model.model_fields
        return ConfigError(
            f"There is no option {path!r}.", did_you_mean(str(first["loc"][-1]), known)
        )
    if not path:
        return ConfigError(first["msg"].removeprefix("Value error, ") + ".")
    return ConfigError(
        f"{path} cannot be {first['input']!r}: {_lowered(first['msg'])}.",
        f"Set it with --set {path}=VALUE.",
    )


def _lowered(sentence: str) -> str:
    sentence = sentence.removeprefix("Value error, ")
    return sentence[:1].lower() + sentence[1:]
