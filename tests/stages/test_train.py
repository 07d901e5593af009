"""`sseg train` from masks to a checkpoint, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import read_tensors
from sseg_core.config import DownloadConfig, OptimConfig, PseudomaskConfig, TrainConfig
from sseg_core.errors import ArtifactError, ConfigError, TrainingError
from sseg_core.inference.segmenter import Segmenter
from sseg_core.overrides import with_overrides
from sseg_core.recipes import tiny
from sseg_core.stages import download, pseudomask, train
from sseg_core.stages.train import plan
from sseg_core.tracking import read_metrics
from sseg_core.training.inputs import Share, share_of_batch
from sseg_core.training.learner import autocast_dtype

Train = Callable[..., Artifact]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """A store with toy pairs and their masks."""
    made = ArtifactStore(tmp_path_factory.mktemp("store"))
    sizes = {"scenes": 40, "image_size": 48}
    values: dict[str, Any] = {"source": "toyworld", "shard_size": 15, "toyworld": sizes}
    download.run(DownloadConfig.model_validate(values), made)
    pseudomask.run(PseudomaskConfig(features="lab", grid=24, image_size=48), made, device="cpu")
    return made


class Notes:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.fields: dict[str, str] = {}

    def start(self, task: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **fields: str) -> None:
        self.fields.update(fields)

    def message(self, text: str) -> None:
        self.messages.append(text)


def configured(*settings: str) -> TrainConfig:
    """The recipe `tiny`, small enough for a test."""
    small = [
        "steps=4", "batch_size=8", "loader.load_size=32", "loader.crop_size=32",
        "loader.workers=0", "log_every=1",
    ]  # fmt: skip
    return with_overrides(tiny(), [*small, *settings])


def trained(
    store: ArtifactStore, name: str, *settings: str, notes: Notes | None = None
) -> Artifact:
    progress: Any = notes or Notes()
    return train.run(configured(*settings), store, name=name, device="cpu", progress=progress)


def tensors(artifact: Artifact, name: str = "model.safetensors") -> Mapping[str, torch.Tensor]:
    return read_tensors(artifact.file(name))


def test_epochs_become_steps(store: ArtifactStore) -> None:
    """30 epochs of 40 images in batches of 10 are 120 steps, 2 of warm-up are 8."""
    made = plan(TrainConfig(batch_size=10, epochs=30), store)
    assert (made.steps, made.warmup_steps) == (120, 8)
    assert made.config.masks.stored == "toyworld:v1"
    made = plan(TrainConfig(batch_size=10, steps=7, optim=OptimConfig(warmup_steps=3)), store)
    assert (made.steps, made.warmup_steps) == (7, 3)


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(64, None, 1, (64, 1)), (64, None, 4, (16, 1)), (64, 16, 2, (16, 2)), (12, 5, 1, (4, 3))],
)
def test_a_batch_is_shared_evenly(
    batch: int, micro: int | None, processes: int, expected: tuple[int, int]
) -> None:
    """Micro-batches are the largest within the limit that divide what a process has."""
    config = TrainConfig(batch_size=batch, micro_batch_size=micro)
    assert share_of_batch(config, processes) == Share(*expected)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    """The hint is a batch size that does."""
    with pytest.raises(ConfigError, match="does not divide among 3") as error:
        share_of_batch(TrainConfig(batch_size=64), 3)
    assert "batch_size=63" in error.value.hint


def test_micro_batches_of_one_image_are_not_what_was_asked_for() -> None:
    """A prime number of images cannot be cut; the hint is a batch that can."""
    with pytest.raises(ConfigError, match="micro-batches of 1") as error:
        share_of_batch(TrainConfig(batch_size=509 * 2, micro_batch_size=64), 2)
    assert "batch_size=1024" in error.value.hint
    share_of_batch(TrainConfig(batch_size=1024, micro_batch_size=64), 2)


def test_the_type_of_the_forward_pass() -> None:
    """On a CPU `auto` is plain fp32."""
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16


def test_a_run_leaves_curves_and_facts(store: ArtifactStore) -> None:
    """Every step is in metrics.jsonl with all that is promised, and the manifest sums it up."""
    notes = Notes()
    made = trained(store, "plain", notes=notes)
    records = read_metrics(made.file("metrics.jsonl"))
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert set(records[0]) == {
        "step", "loss", "contrastive", "dice", "focal", "logit_scale", "grad_norm", "lr",
        "images_per_second", "data_wait", "memory_mb",
    }  # fmt: skip
    stats = made.manifest.stats
    assert (stats["steps"], stats["processes"], stats["weights"]) == (4, 1, "last")
    assert stats["loss"] == records[-1]["loss"]
    assert {"loss", "lr", "images_s", "wait", "memory", "scale"} <= set(notes.fields)
    assert notes.messages[0] == "masks toyworld:v1, pairs toyworld:v1"
    assert [parent.kind for parent in made.manifest.parents] == ["masks", "pairs"]
    pairs = store.find("toyworld", "pairs")
    assert stats["data"] == {pairs.reference: pairs.manifest.stats["fingerprint"]}


def test_micro_batches_train_alike(store: ArtifactStore) -> None:
    """With GradCache the batch has the same samples; only BatchNorm sees less at once."""
    made = trained(store, "micro", "micro_batch_size=4")
    losses = [record["loss"] for record in read_metrics(made.file("metrics.jsonl"))]
    assert len(losses) == 4
    assert losses[-1] < losses[0] * 1.5


def test_masks_are_made_online(store: ArtifactStore) -> None:
    """Pairs alone will do; the manifest tells the generator, and there is no masks parent."""
    made = trained(
        store, "online", "masks.source=online", "masks.generator.features=lab",
        "masks.generator.image_size=32", "masks.generator.grid=16",
    )  # fmt: skip
    assert [parent.kind for parent in made.manifest.parents] == ["pairs"]
    assert made.manifest.config["masks"]["generator"]["features"] == "lab"
    assert made.manifest.stats["dice"] > 0


def test_data_sets_are_mixed(store: ArtifactStore) -> None:
    """Two masks artifacts by weight, each a parent once."""
    pseudomask.run(
        PseudomaskConfig(features="rgb", grid=24, image_size=48, masks=4), store, name="other"
    )
    made = trained(store, "mixed", "masks.stored='toyworld=1,other=3'")
    assert made.manifest.config["masks"]["stored"] == "toyworld:v1=1,other:v1=3"
    kinds = [(parent.kind, parent.name) for parent in made.manifest.parents]
    assert kinds == [("masks", "toyworld"), ("pairs", "toyworld"), ("masks", "other")]


def test_the_average_is_published(store: ArtifactStore) -> None:
    """With ema_decay the weights are not those of the last step, and the model still loads."""
    plain = trained(store, "no-average")
    averaged = trained(store, "average", "ema_decay=0.9")
    assert averaged.manifest.stats["weights"] == "ema"
    a, b = tensors(plain), tensors(averaged)
    assert set(a) == set(b)
    assert any(not torch.equal(a[name], b[name]) for name in a)
    Segmenter.load("average", store=store, device="cpu")


def test_probes_choose_the_best_weights(store: ArtifactStore) -> None:
    """Scores go to the log, pictures to a folder, and the best weights are kept and published."""
    made = trained(
        store, "probed", "eval_every=2", "samples_every=4", "probe.limit=2", "probe.pictures=2",
        "publish=best",
    )  # fmt: skip
    probes = [r for r in read_metrics(made.file("metrics.jsonl")) if "probe_miou" in r]
    assert [record["step"] for record in probes] == [1, 3]
    best = max(probes, key=lambda record: record["probe_miou"])
    stats = made.manifest.stats
    assert (stats["weights"], stats["best_step"]) == ("best", best["step"])
    assert stats["best_probe_miou"] == pytest.approx(best["probe_miou"], abs=0.01)
    weights, kept = tensors(made), tensors(made, "best.safetensors")
    assert all(torch.equal(weights[name], kept[name]) for name in weights)
    with Image.open(made.file("samples/step-00000003.jpg")) as sheet:
        assert sheet.width > 64
    with pytest.raises(ConfigError, match="needs probes"):
        plan(configured("publish=best"), store)


def test_a_probe_does_not_touch_the_training(store: ArtifactStore) -> None:
    """With and without probes the weights are the same, bit for bit."""
    plain = tensors(trained(store, "unprobed"))
    probed = tensors(trained(store, "looked-at", "eval_every=1", "probe.limit=2"))
    assert all(torch.equal(plain[name], probed[name]) for name in plain)


def test_a_run_starts_from_a_checkpoint(store: ArtifactStore) -> None:
    """init_from is a parent of the new one; weights of another network are refused by name."""
    first = trained(store, "first")
    second = trained(store, "second", "init_from=first", "steps=1", "optim.lr=1e-12")
    assert second.manifest.parents[-1] == first.as_parent()
    a, b = tensors(first), tensors(second)
    name = "mask_decoder.query_position"
    assert torch.allclose(a[name], b[name], atol=1e-6)
    with pytest.raises(ArtifactError, match=r"has shape .* but the model"):
        trained(store, "third", "init_from=first", "model.embed_dim=64")


def test_a_non_finite_loss_names_its_samples(store: ArtifactStore) -> None:
    """The run stops before the optimiser steps, and publishes nothing."""
    with pytest.raises(TrainingError, match=r"not finite at step .* samples: "):
        trained(store, "exploding", "optim.lr=1e30", "optim.warmup_steps=0")
    assert not list((store.root / "checkpoint" / "exploding").glob("v*"))
    (report,) = (store.root / "checkpoint" / "exploding").glob(".work-*/scratch/nonfinite.json")
    assert len(json.loads(report.read_text())["ranks"][0]["keys"]) == 8


def test_a_full_disk_does_not_end_the_run(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that cannot be written is told once; the run goes on to its end."""
    from sseg_core.training import run_state

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_state, "save_step", full)
    notes = Notes()
    made = trained(store, "full-disk", "checkpoint_every=1", notes=notes)
    assert made.manifest.stats["steps"] == 4
    assert sum("is full; the run goes on" in message for message in notes.messages) == 1
