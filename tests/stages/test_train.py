"""The plan of `sseg train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import OptimConfig, TrainConfig
from sseg_core.errors import ArtifactError
from sseg_core.recipes import tiny
from sseg_core.stages.train import plan


def make_masks(store: ArtifactStore, images: int) -> Artifact:
    with store.draft("pairs", "toy", {}) as draft:
        draft.partial("000000.tar").write_bytes(b"p")
        draft.commit("000000.tar")
        pairs = draft.publish({"images": images})
    with store.draft("masks", "toy", {"masks": 8}, [pairs]) as draft:
        draft.partial("000000.tar").write_bytes(b"m")
        draft.commit("000000.tar")
        return draft.publish({"images": images})


def test_epochs_become_steps(tmp_path: Path) -> None:
    """30 epochs of 1000 images in batches of 100 are 300 steps, 2 of warm-up are 20."""
    store = ArtifactStore(tmp_path)
    make_masks(store, 1000)
    made = plan(TrainConfig(batch_size=100, epochs=30), store)
    assert (made.steps, made.warmup_steps) == (300, 20)
    assert made.config.masks.stored == "toy:v1"
    assert [tuple(Path(p).parts[-4] for p in pair) for pair in made.shards] == [("pairs", "masks")]
    made = plan(TrainConfig(batch_size=100, steps=7, optim=OptimConfig(warmup_steps=3)), store)
    assert (made.steps, made.warmup_steps) == (7, 3)


def test_fewer_images_than_a_batch_is_one_sentence(tmp_path: Path) -> None:
    """The hint is a batch size that works."""
    store = ArtifactStore(tmp_path)
    make_masks(store, 10)
    with pytest.raises(ArtifactError, match="fewer than a batch of 64") as error:
        plan(tiny(), store)
    assert "--set batch_size=5" in error.value.hint
