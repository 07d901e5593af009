"""Who is scored, by the name that `sseg eval --model` has for it, with the protocol it is under."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.device import pick_device
from sseg_core.errors import ConfigError
from sseg_core.evaluation.evaluator import Rule
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.protocol import (
    SegmentationProtocol,
    oracle_protocol,
    segmentation_protocol,
    without_meaning,
)
from sseg_core.evaluation.rivals import pseudomask_clip
from sseg_core.evaluation.rivals.names import ORACLE
from sseg_core.evaluation.rivals.oracle import Oracle
from sseg_core.evaluation.rivals.plugin import Plugin
from sseg_core.evaluation.rivals.registry import open_rival
from sseg_core.evaluation.rivals.rival import Predictor, Rival, predictor
from sseg_core.manifest import sha256_of
from sseg_core.pseudomask.clustering import resolve
from sseg_core.pseudomask.features import resolve_features

_NOT_FOR_ORACLES = (
    "weights", "image_size", "window", "stride", "scales", "flip", "templates", "logit_scale",
    "refine", "class_words", "threshold", "background_words", "sweep_threshold",
)  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """What is scored, and how.

    Attributes:
        reference: what it is called.
        predict: gives the label maps.
        protocol: as JSON values.
        rule: for background.
        parents: the artifacts it came from.
        notes: what a reader of its score should know.
        batch_size: images at a time.
        measured: what it measured itself, once it has seen the benchmark.
        resumable: the same reference means the same model, so that an interrupted evaluation can
            go on.
    """

    reference: str
    predict: Predictor
    protocol: dict[str, Any]
    rule: Rule
    parents: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()
    batch_size: int = 8
    measured: Callable[[], dict[str, float]] = dict
    resumable: bool = False


def contestant(
    config: EvalConfig, benchmark: Benchmark, store: ArtifactStore, device: str
) -> Contestant:
    """Open the model that `config` names.

    Raises:
        ConfigError: no such model, features or protocol, an option that does not go with it, or a
            class that a student does not know.
        ArtifactError: its checkpoint or weights are not at hand.
    """
    if config.model is not None and config.model.startswith(ORACLE):
        refuse_model_options(config)
        features = resolve_features(config.model.removeprefix(ORACLE))
        if config.oracle.features not in {"auto", features}:
            raise ConfigError(
                f"oracle.features is {config.oracle.features}, but the model is {config.model}.",
                "Leave oracle.features out.",
            )
        masks = config.oracle.model_copy(update={"features": features})
        return oracle_contestant(config, masks, benchmark, device)
    if config.oracle != PseudomaskConfig() and not (config.model or "").startswith(
        pseudomask_clip.KIND
    ):
        raise ConfigError(
            f"Options of the pseudo-masks are given, but {config.model or 'the model'} makes none.",
            "Add --model oracle:FEATURES, or leave them out.",
        )
    protocol = segmentation_protocol(config, benchmark)
    assert protocol.view is not None
    rival = open_rival(
        config.model,
        protocol.view,
        store=store,
        device=pick_device(device),
        weights=config.weights,
        generator=config.oracle,
    )
    protocol = protocol.followed_by(rival)
    if protocol.background == "class" and config.sweep_threshold:
        raise without_meaning("sweep_threshold", protocol.background)
    return Contestant(
        reference=rival.reference,
        predict=predictor(rival, protocol.vocabulary),
        protocol=protocol.as_json(),
        rule=replace(protocol.rule, sweep=config.sweep_threshold),
        parents=tuple(rival.parents),
        notes=(*rival.notes, *_digests(config, rival), *_own_background(protocol)),
        batch_size=config.batch_size,
        resumable=not isinstance(rival, Plugin) and config.weights is None,
    )


def _own_background(protocol: SegmentationProtocol) -> Iterator[str]:
    if protocol.background == "class":
        yield "it tells background apart by itself: no threshold has a part in that"


def _digests(config: EvalConfig, rival: Rival) -> Iterator[str]:
    """Yield what tells the user's own files from others of the same name."""
    files = [rival.path] if isinstance(rival, Plugin) else []
    if config.weights is not None:
        files.append(Path(config.weights))
    for path in files:
        if path.is_file():
            yield f"SHA-256 of {path.name}: {sha256_of(path)}"


def oracle_contestant(
    config: EvalConfig, masks: PseudomaskConfig, benchmark: Benchmark, device: str
) -> Contestant:
    """Make the oracle of some pseudo-masks.

    Raises:
        ConfigError: unknown features, or options that do not go together.
        ArtifactError: their weights are not at hand.
    """
    masks = resolve(masks)
    protocol = oracle_protocol(config, benchmark, masks)
    oracle = Oracle(masks, len(benchmark.class_names), pick_device(device))
    return Contestant(
        reference=f"{ORACLE}{masks.features}",
        predict=oracle,
        protocol=protocol.as_json(),
        rule=protocol.rule,
        notes=("the classes of its segments are taken from the truth",),
        batch_size=masks.batch_size,
        measured=lambda: {"milliseconds_per_image": round(oracle.milliseconds_per_image, 3)},
    )


def refuse_model_options(config: EvalConfig) -> None:
    """Refuse what an oracle has no use for.

    Raises:
        ConfigError: an option of models that are asked with words.
    """
    for option in _NOT_FOR_ORACLES:
        if getattr(config, option):
            raise ConfigError(
                f"{option} is not an option of {config.model}.", "Leave it out for an oracle."
            )
