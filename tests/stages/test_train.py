"""The schedule, the optimiser and the plan of `sseg train`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import OptimConfig, TrainConfig
from sseg_core.errors import ArtifactError
from sseg_core.models.build import build_model
from sseg_core.recipes import tiny
from sseg_core.stages.train import learning_rate, make_optimizer, plan


def test_the_schedule_is_torchs_cosine_after_a_linear_warmup() -> None:
    """Step by step equal to CosineAnnealingLR behind the warm-up."""
    config = OptimConfig(lr=0.1, min_lr=0.01)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.01)
    rates = [learning_rate(step, 100, 10, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    for rate in rates[10:]:
        assert rate == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert learning_rate(0, 1, 0, config) == 0.1


def test_only_weights_are_decayed() -> None:
    """Norms, biases, positions and the temperature are in the group without decay."""
    model = build_model(tiny().model)
    decayed, plain = make_optimizer(model, OptimConfig(weight_decay=0.05)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    plain_ids = {id(p) for p in plain["params"]}
    assert id(model.logit_scale) in plain_ids
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(plain_ids) == len(list(model.parameters()))


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
