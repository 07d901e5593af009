"""Protocols resolve what the user left open, and keep what was changed."""

from __future__ import annotations

import pytest

from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.examples import Benchmark, Example
from sseg_core.evaluation.protocol import as_json, oracle_protocol, segmentation_protocol


def _benchmark(*, has_background: bool) -> Benchmark:
    def load(key: str) -> Example:
        raise AssertionError(key)

    return Benchmark("b", ("cat",), has_background, ("1",), load, background_threshold=0.5)


def test_the_defaults_are_the_models_and_the_benchmarks() -> None:
    """Size and template come from the model, the threshold from the benchmark."""
    protocol = segmentation_protocol(
        EvalConfig(), _benchmark(has_background=True), image_size=448, template="{}"
    )
    assert as_json(protocol) == {
        "name": "sseg-v1",
        "short_side": 448,
        "background": "threshold",
        "threshold": 0.5,
        "template": "{}",
        "changed": [],
    }


def test_what_the_user_changes_is_said() -> None:
    """A score under another size, threshold or template is not taken for a plain sseg-v1."""
    config = EvalConfig(image_size=224, threshold=0.2, template="{}")
    protocol = segmentation_protocol(
        config, _benchmark(has_background=True), image_size=448, template="{}"
    )
    assert (protocol.short_side, protocol.threshold) == (224, 0.2)
    assert protocol.changed == ("short_side", "threshold")


@pytest.mark.parametrize(
    ("has_background", "rule", "resolved"),
    [(True, "exclude", "exclude"), (False, "threshold", "none"), (False, "exclude", "none")],
)
def test_without_predicted_background_there_is_no_threshold(
    has_background: bool, rule: str, resolved: str
) -> None:
    """Excluded or absent background means threshold 0, and a given threshold is an error."""
    benchmark = _benchmark(has_background=has_background)
    config = EvalConfig.model_validate({"background": rule})
    protocol = segmentation_protocol(config, benchmark, image_size=448, template="{}")
    assert (protocol.background, protocol.threshold) == (resolved, 0.0)
    with pytest.raises(ConfigError, match="threshold has no meaning"):
        segmentation_protocol(
            config.model_copy(update={"threshold": 0.5}), benchmark, image_size=448, template="{}"
        )


def test_the_oracle_has_background_as_a_class() -> None:
    """Unless it is excluded or there is none."""
    masks = PseudomaskConfig()
    config = EvalConfig()
    assert oracle_protocol(config, _benchmark(has_background=True), masks).background == "class"
    assert oracle_protocol(config, _benchmark(has_background=False), masks).background == "none"
    config = EvalConfig(background="exclude")
    assert oracle_protocol(config, _benchmark(has_background=True), masks).background == "exclude"


def test_the_oracle_says_how_its_segments_are_made() -> None:
    """Everything that moves the score is in the protocol."""
    masks = PseudomaskConfig(features="rgb", clustering="spectral", masks=16, grid=28, seed=3)
    protocol = oracle_protocol(EvalConfig(), _benchmark(has_background=True), masks)
    assert as_json(protocol) == {
        "name": "oracle-v1",
        "features": "rgb",
        "facet": "token",
        "clustering": "spectral",
        "masks": 16,
        "image_size": 224,
        "grid": 28,
        "seed": 3,
        "background": "class",
    }
