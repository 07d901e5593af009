"""The generators of S-Seg's Table 1 and ours, in the order in which the table shows them.

Figures of the paper are of the whole validation sets and of its own machine; they stand beside
what is measured here and are never mixed with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sseg_core.config import EvalConfig, PseudomaskConfig, build_config
from sseg_core.errors import ConfigError
from sseg_core.evaluation.published.published import Row, rows_for
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
        paper: its name in the paper's table; None where it has none.
    """

    name: str
    features: str
    clustering: str = "auto"
    eighth: bool = False
    paper: str | None = None

    @property
    def paper_miou(self) -> Mapping[str, float]:
        """The paper's oracle mIoU in percent, by benchmark."""
        return {row.benchmark: row.miou for row in self._paper_rows()}

    @property
    def paper_milliseconds(self) -> float | None:
        """The paper's time per image."""
        return next((row.milliseconds for row in self._paper_rows()), None)

    @property
    def supervision(self) -> Supervision | None:
        """What its features learned from: none, label, text or self."""
        return supervision(self.features)

    def _paper_rows(self) -> Sequence[Row]:
        return rows_for(table=1, method=self.paper) if self.paper is not None else ()

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
    Generator("rgb + spectral", "rgb", "spectral", eighth=True, paper="Spectral"),
    Generator("rgb + k-means", "rgb", "kmeans", eighth=True, paper="K-Means"),
    Generator("lab + k-means", "lab", "kmeans"),
    Generator("texture", "texture"),
    Generator("imagenet + k-means", "imagenet_vits16", "kmeans", paper="ImageNet+K-Means"),
    Generator("groupvit", "groupvit", paper="GroupViT"),
    Generator("dino + k-means", "dino_vits8", "kmeans", paper="Pseudo-mask"),
    Generator("dinov2 + k-means", "dinov2_vits14", "kmeans"),
)


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
