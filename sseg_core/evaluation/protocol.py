"""How an image is shown to a model and how its answer is read: named, and kept with every score.

Scores of open-vocabulary segmenters differ by more than their models: the input size, the words
around a class name and the rule for background move them by many points. Two scores compare only
where the protocols that are stored beside them do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.examples import Benchmark

BackgroundRule = Literal["threshold", "exclude", "class", "none"]
"""What becomes of the benchmark's background:

- threshold: predicted where the best class is less probable than the threshold; a class of the
  mIoU like any other.
- exclude: its pixels do not count, every other pixel gets a class (S-Seg Table 4).
- class: a class that the method tells apart itself, as the oracle does.
- none: the benchmark has none.
"""


@dataclass(frozen=True)
class SegmentationProtocol:
    """The protocol `sseg-v1`, for models that are asked with class names.

    The image is resized to `short_side` pixels, aspect kept, in one piece; mask logits are
    interpolated to the image's own size, where the truth is (S-Seg App. A.1).

    Attributes:
        name: `sseg-v1`.
        short_side: pixels of the short side as the network sees it.
        background: see `BackgroundRule`.
        threshold: probability below which a pixel is background.
        template: text around a class name.
        changed: the fields above for which the user asked for another value.
    """

    name: str
    short_side: int
    background: BackgroundRule
    threshold: float
    template: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class OracleProtocol:
    """The protocol `oracle-v1`: pseudo-masks that are told their majority class.

    Attributes:
        name: `oracle-v1`.
        features: what is clustered.
        facet: what of a ViT's last block the features are.
        clustering: how.
        masks: K, segments per image.
        image_size: square side to which the image is resized.
        grid: cells per side of the segments, for features without weights.
        seed: of the clustering.
        background: see `BackgroundRule`.
    """

    name: str
    features: str
    facet: str
    clustering: str
    masks: int
    image_size: int
    grid: int
    seed: int
    background: BackgroundRule


def segmentation_protocol(
    config: EvalConfig, benchmark: Benchmark, *, image_size: int, template: str
) -> SegmentationProtocol:
    """Resolve `sseg-v1` for a benchmark and a model.

    Args:
        config: what the user asked for.
        benchmark: says whether there is background, and its threshold.
        image_size: the model's own short side, twice its training crop.
        template: the model's own template.

    Raises:
        ConfigError: a threshold where no background is predicted.
    """
    background = _background(config, benchmark, "threshold")
    if background != "threshold" and config.threshold is not None:
        raise ConfigError(
            f"A threshold has no meaning where background is {background!r}.",
            "Leave threshold out, or choose a benchmark and a rule that predict background.",
        )
    choices = {
        "short_side": (config.image_size, image_size),
        "threshold": (
            config.threshold,
            benchmark.background_threshold if background == "threshold" else 0.0,
        ),
        "template": (config.template, template),
    }
    values: dict[str, Any] = {
        name: default if asked is None else asked for name, (asked, default) in choices.items()
    }
    changed = tuple(name for name, (_, default) in choices.items() if values[name] != default)
    return SegmentationProtocol("sseg-v1", background=background, changed=changed, **values)


def oracle_protocol(
    config: EvalConfig, benchmark: Benchmark, masks: PseudomaskConfig
) -> OracleProtocol:
    """Resolve `oracle-v1`: background is a class, unless it is excluded."""
    return OracleProtocol(
        name="oracle-v1",
        features=masks.features,
        facet=masks.facet,
        clustering=masks.clustering,
        masks=masks.masks,
        image_size=masks.image_size,
        grid=masks.grid,
        seed=masks.seed,
        background=_background(config, benchmark, "class"),
    )


def as_json(protocol: SegmentationProtocol | OracleProtocol) -> dict[str, Any]:
    """Return the protocol as plain JSON values."""
    values = asdict(protocol)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _background(
    config: EvalConfig, benchmark: Benchmark, otherwise: BackgroundRule
) -> BackgroundRule:
    if not benchmark.has_background:
        return "none"
    return "exclude" if config.background == "exclude" else otherwise
