"""Options of `sseg selftrain`: the labels of a teacher, and the student that learns from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from sseg_core.config.base import Config, build_config
from sseg_core.config.model import BackboneConfig
from sseg_core.config.train import OptimConfig, RunConfig, TrainConfig
from sseg_core.config.use import AskConfig


class LabelConfig(AskConfig):
    """A teacher, the images that it labels, and how it is asked (paper Sec. 3.3.4)."""

    split: str = Field("train", description="split of the benchmark whose images are labelled")
    images: str | None = Field(
        None, description="folder of photos to label instead of the benchmark's own"
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, description="class names, where there is no benchmark"
    )
    shard_size: int = Field(
        100, ge=1, description="images per shard of labels: what a process takes on at a time"
    )
    sheet: int = Field(24, ge=0, le=200, description="images on the contact sheet, 0 for none")
    max_share: float = Field(
        0.98,
        gt=0,
        le=1,
        description="refuse labels of which a single class has a larger share of the pixels",
    )


class UperNetConfig(Config):
    """The student: UperNet on a timm backbone (paper App. A.2)."""

    architecture: Literal["upernet"] = "upernet"
    backbone: BackboneConfig = Field(
        default_factory=lambda: BackboneConfig(
            name="vit_base_patch16_224.mae",
            pretrained=True,
            out_indices=(3, 5, 7, 11),
            options={"img_size": 512, "drop_path_rate": 0.1},
        ),
        description="a ViT's blocks 4, 6, 8 and 12 become a pyramid, as in BEiT (paper App. A.2); "
        "other models bring their own levels",
    )
    channels: int = Field(512, ge=8, description="width of the pyramid pooling and FPN head")
    pool_sizes: tuple[int, ...] = Field(
        (1, 2, 3, 6),
        min_length=1,
        description="sides of the grids that the last level is pooled to",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of channels before the classifier")
    auxiliary: bool = Field(True, description="an FCN head on the third level helps in training")
    auxiliary_channels: int = Field(256, ge=8, description="its width")
    class_names: tuple[str, ...] = Field((), description="what it tells apart: those of the labels")
    has_background: bool = Field(False, description="and background: where the labels have it")


class CropConfig(Config):
    """How labelled images become batches (paper App. A.2 and what it follows, BEiT)."""

    short_side: int = Field(
        512, ge=32, description="short side of an image at scale 1, and when the model is used"
    )
    crop_size: int = Field(512, ge=32, description="side of the crops")
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the random scale")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    photometric: float = Field(
        1.0,
        ge=0,
        le=1,
        description="strength of the distortion of brightness, contrast, saturation and hue; 0 for "
        "none",
    )
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far images of rare classes come more often: 0 not at all, 1 until every "
        "class is met equally often",
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="pixels that the teacher is less sure of do not count"
    )
    workers: int = Field(4, ge=0, description="loader processes; 0 loads in the main process")
    max_skip_rate: float = Field(
        0.5, ge=0, le=1, description="stop when more than this share of the images is unusable"
    )

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError("a range of scales is two numbers above 0, the smaller one first")
        return scale


class StudentLossConfig(Config):
    """Cross-entropy on the labels that count."""

    auxiliary: float = Field(
        0.4, ge=0, description="weight of the FCN head's loss (our choice, BEiT's)"
    )


class StudentConfig(RunConfig):
    """A student: all that determines its training, but for the machines it runs on."""

    labels: str | None = Field(None, description="labels artifact; default: made by the teacher")
    model: UperNetConfig = Field(default_factory=UperNetConfig)
    loader: CropConfig = Field(default_factory=CropConfig)
    loss: StudentLossConfig = Field(default_factory=StudentLossConfig)
    optim: OptimConfig = Field(
        default_factory=lambda: OptimConfig(
            schedule="poly", lr=1e-4, weight_decay=0.05, layer_decay=0.7, warmup_steps=1500
        )
    )
    hold_out: int = Field(
        100,
        ge=0,
        description="labelled images kept from training, a tenth at most, on which the student is "
        "compared with its teacher",
    )
    batch_size: int = Field(16, ge=2, description="images per step, of all processes together")
    steps: int = Field(20_000, ge=1, description="training steps")


class SelftrainConfig(StudentConfig):
    """`sseg selftrain`: rounds of a teacher that labels and a student that learns (S-Seg+)."""

    label: LabelConfig = Field(default_factory=LabelConfig)
    rounds: int = Field(1, ge=1, description="the student of a round is the teacher of the next")
    min_growth: float = Field(
        0.5,
        ge=0,
        description="points by which the agreement of student and teacher must grow from round to "
        "round; else no further round follows",
    )
    eval_split: str = Field("val", description="split on which teacher and students are scored")
    eval_limit: int | None = Field(None, ge=1, description="score only the first images")

    @property
    def student(self) -> StudentConfig:
        """The part that a student's checkpoint keeps."""
        fields = StudentConfig.model_fields
        return StudentConfig(**{name: getattr(self, name) for name in fields})


def build_checkpoint_config(values: dict[str, Any]) -> TrainConfig | StudentConfig:
    """Return the configuration in the manifest of a checkpoint, of whichever network it is.

    Raises:
        ConfigError: it is of neither.
    """
    model = values.get("model")
    if isinstance(model, dict) and model.get("architecture") == "upernet":
        return build_config(StudentConfig, values)
    return build_config(TrainConfig, values)
