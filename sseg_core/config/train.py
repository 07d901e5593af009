"""Options of `sseg train`: the loader, the losses, the optimiser and the run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sseg_core.config.base import Config
from sseg_core.config.data import PseudomaskConfig
from sseg_core.config.model import ModelConfig


class MasksConfig(Config):
    """Where the pseudo-masks of a run come from."""

    source: Literal["stored", "online"] = Field(
        "stored",
        description="stored: those of `sseg pseudomask`; online: made of each crop as it comes",
    )
    stored: str | None = Field(
        None,
        description="masks artifact, or several and how much of each: cc3m=1,cc12m=3; "
        "default: the newest",
    )
    pairs: str | None = Field(
        None,
        description="with online masks: pairs artifacts or shards by pattern, weighted likewise; "
        "default: the newest pairs",
    )
    generator: PseudomaskConfig = Field(
        default_factory=PseudomaskConfig,
        description="how masks are made online; of stored ones, how they were made",
    )


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
    """AdamW with warm-up and decay (paper Tables 5 and 6)."""

    schedule: Literal["cosine", "poly"] = Field(
        "cosine",
        description="how the learning rate falls after the warm-up: half a cosine (paper Table 5) "
        "or a polynomial (Table 6)",
    )
    power: float = Field(
        1.0, gt=0, description="exponent of the polynomial (our choice, BEiT's, not in the paper)"
    )
    lr: float = Field(5e-4, gt=0, description="base learning rate, reached after the warm-up")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the last step")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW momentum")
    clip_norm: float = Field(
        1.0, ge=0, description="gradient norm limit, 0 for none (our choice, not in the paper)"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor of the learning rate per backbone layer, going down; its last layer "
        "gets it once",
    )
    warmup_epochs: float = Field(2.0, ge=0, description="warm-up, in epochs, where epochs are set")
    warmup_steps: int | None = Field(
        None, ge=0, description="warm-up, in steps; wins over warmup_epochs"
    )


class ProbeConfig(Config):
    """Held-out images to look at and to score while training."""

    benchmark: str = Field("toyworld", description="as of sseg eval")
    root: str | None = Field(None, description="folder of the benchmark")
    split: str = Field("val", description="split of the benchmark")
    limit: int = Field(50, ge=1, description="score the first images only")
    pictures: int = Field(4, ge=1, le=64, description="draw the first images")


class RunConfig(Config):
    """What all training runs have: the optimiser, the batch, and what is kept and told of a run."""

    recipe: str = Field("custom", description="the recipe this configuration started from")
    optim: OptimConfig = Field(default_factory=OptimConfig)
    batch_size: int = Field(4096, ge=2, description="images per step, of all processes together")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="at most this many images at once in a process; the gradient stays that of "
        "the whole batch (GradCache)",
    )
    steps: int | None = Field(None, ge=1, description="training steps; wins over epochs")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="autocast type; auto takes bf16 on a GPU that has it, else fp32"
    )
    compile: bool = Field(False, description="torch.compile the network")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights that is published; 0 for none",
    )
    seed: int = Field(0, ge=0, description="seeds weights, data order and augmentation")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="step checkpoints to keep")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    eval_every: int = Field(0, ge=0, description="steps between probes; 0 for none")
    samples_every: int = Field(
        0, ge=0, description="steps between pictures of held-out images; 0 for none"
    )
    probe: ProbeConfig = Field(default_factory=ProbeConfig)
    publish: Literal["last", "best"] = Field(
        "last", description="the weights of the last step, or of the best probe"
    )


class TrainConfig(RunConfig):
    """`sseg train`: everything that determines a run, but for the machines it runs on."""

    masks: MasksConfig = Field(default_factory=MasksConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    init_from: str | None = Field(
        None, description="checkpoint whose weights to start from; default: fresh ones"
    )
    epochs: float = Field(30, gt=0, description="passes over the pairs, counted in samples")
