"""What a student is given to learn from, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import LabelConfig, StudentConfig
from sseg_core.data.label_shards import LabelShardWriter
from sseg_core.errors import ArtifactError, ConfigError, DataError, SsegError
from sseg_core.stages.student import plan, run_of
from sseg_core.stages.student import run as run_student
from sseg_core.student_recipes import STUDENT_RECIPES, recipe_for, student_recipe, voc2012
from sseg_core.tracking import SILENT

CLASSES = ("cat", "dog")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _labels(
    store: ArtifactStore,
    photos: Path,
    count: int = 30,
    *,
    label: int = 1,
    has_background: bool = False,
    kept_at: Mapping[str, float] | None = None,
) -> Artifact:
    """Publish labels of photos, each of one label."""
    photos.mkdir(exist_ok=True)
    config = LabelConfig(images=str(photos), classes=CLASSES).model_dump(mode="json")
    stats: dict[str, Any] = {
        "class_names": CLASSES, "has_background": has_background, "teacher": "random:v1",
        "kept_at": kept_at or {},
    }  # fmt: skip
    with store.draft("labels", "made", config) as draft:
        with LabelShardWriter(draft.path / "labels-00000.tar") as shard:
            for number in range(count):
                Image.new("RGB", (8, 6)).save(photos / f"{number:03d}.png")
                shard.write(f"{number:03d}.png", np.full((6, 8), label, np.int16), None)
        return draft.publish(stats)


def test_a_tenth_at_most_is_held_out(store: ArtifactStore, tmp_path: Path) -> None:
    """Evenly spread, never learned from; the classes are those of the labels."""
    _labels(store, tmp_path / "photos")
    made = plan(StudentConfig(), store)
    assert [entry.key for entry in made.held_out] == ["000.png", "010.png", "020.png"]
    keys = {entry.key for entry in made.entries}
    assert len(keys) == 27
    assert not keys & {entry.key for entry in made.held_out}
    assert made.config.labels == "made:v1"
    assert made.config.model.class_names == CLASSES
    assert made.teacher == "random:v1"
    assert len(plan(StudentConfig(hold_out=1), store).held_out) == 1
    assert len(plan(StudentConfig(hold_out=0), store).entries) == 30


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"label": 2}, ArtifactError, "as class 2, but its classes are 0 to 1"),
        ({"label": -1}, ArtifactError, "as class -1, but its classes are 0 to 1"),
        ({"label": 2, "has_background": True}, ArtifactError, "its classes are -1 to 1"),
        ({"count": 1}, ArtifactError, "labels of 1 image"),
        (
            {"kept_at": {"0.0": 100.0, "0.4": 30.0, "0.5": 0.4, "0.6": 0.0}},
            ConfigError,
            "sure of 0.4 % of the pixels at min_confidence=0.5",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(
    store: ArtifactStore, tmp_path: Path, values: Any, kind: type[SsegError], message: str
) -> None:
    """A label without an output, and too few images: said before anything is built."""
    _labels(store, tmp_path / "photos", **values)
    with pytest.raises(kind, match=message):
        plan(StudentConfig(), store)


def test_photos_that_have_gone_are_missed(store: ArtifactStore, tmp_path: Path) -> None:
    """The labels are there, but the folder they are of is not."""
    _labels(store, tmp_path / "photos")
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="photos"):
        plan(StudentConfig(), store)


def test_a_batch_of_one_is_refused_at_the_start(store: ArtifactStore, tmp_path: Path) -> None:
    """BatchNorm could not learn from it; no network is built first."""
    _labels(store, tmp_path / "photos")
    config = StudentConfig(micro_batch_size=1)
    with pytest.raises(ConfigError, match="one image at a time"):
        run_student(config, store, name="x", device="cpu")


def test_the_licence_of_the_weights_is_told_and_kept(store: ArtifactStore, tmp_path: Path) -> None:
    """MAE's weights are not for commercial use; fresh ones have no licence to tell of."""
    _labels(store, tmp_path / "photos")
    run = run_of(plan(voc2012(), store), "cpu", {"round": 1}, SILENT)
    assert "cc-by-nc-4.0" in run.stats["licence"]
    assert "forbids commercial use" in run.stats["note"]
    assert [fact for fact in run.facts if "cc-by-nc-4.0" in fact]
    assert run.stats["round"] == 1
    fresh = run_of(plan(student_recipe("tiny"), store), "cpu", {}, SILENT)
    assert "licence" not in fresh.stats


def test_the_recipes_hold_table_6() -> None:
    """S-Seg Table 6 and App. A.2, value by value."""
    recipe = voc2012()
    optim = recipe.optim
    assert (optim.lr, optim.weight_decay, optim.betas) == (1e-4, 0.05, (0.9, 0.999))
    assert (optim.schedule, optim.warmup_steps, optim.layer_decay) == ("poly", 1500, 0.7)
    assert recipe.batch_size == 16
    steps = {name: student_recipe(name).steps for name in ("voc2012", "context", "coco")}
    assert steps == {"voc2012": 20_000, "context": 40_000, "coco": 80_000}
    assert recipe.model.backbone.name == "vit_base_patch16_224.mae"
    assert recipe.model.backbone.out_indices == (3, 5, 7, 11)  # blocks 4, 6, 8 and 12
    assert recipe.loader.crop_size == 512
    assert {name: student_recipe(name).recipe for name in STUDENT_RECIPES} == {
        name: name for name in STUDENT_RECIPES
    }
    assert [recipe_for(name) for name in ("toyworld", "context", "coco-object", "ade20k")] == [
        "tiny", "context", "coco", "voc2012",
    ]  # fmt: skip
