"""Networks of checkpoints."""

from __future__ import annotations

from typing import TypeVar

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS
from sseg_core.config import StudentConfig, TrainConfig, build_checkpoint_config
from sseg_core.device import pick_device
from sseg_core.errors import ArtifactError
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.word_network import WordNetwork

_Config = TypeVar("_Config", TrainConfig, StudentConfig)


def load_trained(artifact: Artifact, device: str) -> WordNetwork | ClassNetwork:
    """Build the network of a checkpoint, with its weights.

    Args:
        artifact: of kind `checkpoint`.
        device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.

    Raises:
        ArtifactError: it was changed; or the network reads pseudo-masks, and what makes them is
            not at hand.
        ConfigError: there is no such device.
    """
    weights = artifact.verified_file(WEIGHTS)
    config = build_checkpoint_config(artifact.manifest.config)
    target = pick_device(device)
    if isinstance(config, StudentConfig):
        return ClassNetwork.load(
            _from_scratch(config),
            weights,
            target,
            teacher=word_teacher(artifact),
            name=artifact.reference,
        )
    digest = artifact.manifest.files[WEIGHTS].sha256
    return WordNetwork.load(_from_scratch(config), weights, digest, target)


def _from_scratch(config: _Config) -> _Config:
    """Return the configuration without what its backbone started from.

    All weights are in the checkpoint: those that training started from need not be there.
    """
    start = {"pretrained": False, "weights": None}
    backbone = config.model.backbone.model_copy(update=start)
    model = config.model.model_copy(update={"backbone": backbone})
    return config.model_copy(update={"model": model})


def word_teacher(student: Artifact) -> str | None:
    """Return the teacher of a student; the teacher's own teacher where that is a student too."""
    store = ArtifactStore(student.path.parents[2])
    teacher: str | None = student.manifest.stats.get("teacher")
    seen = {student.reference}
    while teacher is not None and teacher not in seen:
        seen.add(teacher)
        try:
            stats = store.find(teacher, "checkpoint").manifest.stats
        except ArtifactError:
            return teacher  # no checkpoint, or gone from this store
        if "teacher" not in stats:
            return teacher
        teacher = stats["teacher"]
    return None
