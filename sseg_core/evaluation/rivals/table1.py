"""The generators of S-Seg's Table 1 and ours, in the order in which the table shows them.

Figures of the paper are of the whole validation sets and of its own machine; they stand beside
what is measured here and are never mixed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sseg_core.config import EvalConfig, PseudomaskConfig, build_config
from sseg_core.errors import ConfigError
from sseg_core.models.supervision import Supervision
from sseg_core.pseudomask.features import supervision, weights_at_hand

ALL = "oracle:all"
"""The model of `sseg eval` that stands for the whole table."""


@dataclass(frozen=True)
class Generator:
    """A row of the table.

    Attributes:
        name: as shown.
        features: of the generator.
        clustering: likewise.
        eighth: whether its grid has 1/8 of the image's side, as the paper takes plain pixels;
            else the configuration's.
        paper_miou: the paper's oracle mIoU in percent, by benchmark.
        paper_milliseconds: the paper's time per image.
    """

    name: str
    features: str
    clustering: str = "auto"
    eighth: bool = False
    paper_miou: Mapping[str, float] = field(default_factory=dict)
    paper_milliseconds: float | None = None

    @property
    def supervision(self) -> Supervision | None:
        """What its features learned from: none, label, text or self."""
        return supervision(self.features)

    def configured(self, base: PseudomaskConfig) -> PseudomaskConfig:
        """Return the configuration of this generator, the rest as in `base`."""
        choice = {"features": self.features, "clustering": self.clustering}
        values = {**base.model_dump(), **choice}
        if self.eighth:
            values["grid"] = base.image_size // 8
        return build_config(PseudomaskConfig, values)

    def lacks(self) -> str | None:
        """Return what keeps this row from being made, and the remedy; None if nothing does.

        Weights are never fetched for the table: that could be gigabytes nobody asked for.
        """
        if weights_at_hand(self.features):
            return None
        return (
            f"The weights of {self.features} are not on this machine. Scored by itself, --model "
            f"oracle:{self.features} fetches them; with --set oracle.weights=FILE it reads a file."
        )


GENERATORS = (
    Generator(
        "rgb + spectral", "rgb", "spectral", eighth=True,
        paper_miou={"voc2012": 49.2, "context": 43.2}, paper_milliseconds=543,
    ),
    Generator(
        "rgb + k-means", "rgb", "kmeans", eighth=True,
        paper_miou={"voc2012": 49.5, "context": 43.3}, paper_milliseconds=188,
    ),
    Generator("lab + k-means", "lab", "kmeans"),
    Generator("texture", "texture"),
    Generator(
        "imagenet + k-means", "imagenet_vits16", "kmeans",
        paper_miou={"voc2012": 68.8, "context": 58.1}, paper_milliseconds=79,
    ),
    Generator(
        "groupvit", "groupvit",
        paper_miou={"voc2012": 73.7, "context": 54.6}, paper_milliseconds=2,
    ),
    Generator(
        "dino + k-means", "dino_vits8", "kmeans",
        paper_miou={"voc2012": 78.8, "context": 66.3}, paper_milliseconds=2,
    ),
    Generator("dinov2 + k-means", "dinov2_vits14", "kmeans"),
)  # fmt: skip


def check_table(config: EvalConfig) -> None:
    """Refuse what the rows of the table decide themselves.

    Raises:
        ConfigError: an option of a single generator.
    """
    for name in ("features", "clustering", "facet", "weights"):
        if getattr(config.oracle, name) != PseudomaskConfig.model_fields[name].default:
            raise ConfigError(
                f"oracle.{name} is not an option of {ALL}: each row has its own.",
                "Give it with --model oracle:FEATURES.",
            )
