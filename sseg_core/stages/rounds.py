"""What came of the rounds of self-training, from the last student back to the first teacher."""

from __future__ import annotations

from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import StudentConfig, build_checkpoint_config


def rounds_of(checkpoint: Artifact, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return what came of each round that led to a student, the first teacher first.

    Each has `model`, and for a student `labels` and `agreement`; where it was scored on the
    benchmark of the labels, the newest `scores` with `miou`, `miou_interval` and
    `pixel_accuracy`.
    """
    rounds: list[dict[str, Any]] = []
    current: Artifact | None = checkpoint
    while current is not None and is_student(current):
        labels = store.parent(current, "labels")
        made = labels.manifest
        row = {
            "model": current.reference,
            "labels": labels.reference,
            "agreement": current.manifest.stats["agreement"],
        }
        rounds.append(row | _scores(current.reference, made.config, store))
        teacher = str(made.stats["teacher"])
        by_checkpoint = any(parent.kind == "checkpoint" for parent in made.parents)
        current = store.parent(labels, "checkpoint") if by_checkpoint else None
        if current is None or not is_student(current):
            rounds.append({"model": teacher} | _scores(teacher, made.config, store))
    return rounds[::-1]


def _scores(model: str, asked: dict[str, Any], store: ArtifactStore) -> dict[str, Any]:
    for artifact in reversed(store.artifacts("scores")):
        config, stats = artifact.manifest.config, artifact.manifest.stats
        same = all(config.get(name) == asked[name] for name in ("benchmark", "root"))
        if same and stats.get("model") == model:
            told = {name: stats[name] for name in ("miou", "miou_interval", "pixel_accuracy")}
            return {"scores": artifact.reference, **told}
    return {}


def is_student(checkpoint: Artifact) -> bool:
    """Return whether a checkpoint came out of self-training."""
    return isinstance(build_checkpoint_config(checkpoint.manifest.config), StudentConfig)
