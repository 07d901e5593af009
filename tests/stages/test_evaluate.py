"""`sseg eval` from a checkpoint or pseudo-masks to a scores artifact."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.data.toyworld import CLASSES, OBJECTS
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES
from sseg_core.stages import evaluate

MakeCheckpoint = Callable[[ArtifactStore], Artifact]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_a_checkpoint_is_scored_on_the_toy_world(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """All promised names are in the stats, in percent, and again in scores.json."""
    checkpoint = make_checkpoint(store)
    artifact = evaluate.run(EvalConfig(limit=4), store, device="cpu")
    stats = artifact.manifest.stats
    assert artifact.manifest.kind == "scores"
    assert artifact.reference == "random-v1-toyworld:v1"
    assert artifact.manifest.parents == (checkpoint.as_parent(),)
    assert artifact.manifest.config["model"] == "random:v1"
    assert json.loads(artifact.verified_file("scores.json").read_text()) == stats
    assert (stats["benchmark"], stats["model"], stats["images"]) == ("toyworld", "random:v1", 4)
    assert stats["skipped"] == {}
    assert list(stats["iou"]) == list(CLASSES)
    present = [iou for iou in stats["iou"].values() if iou is not None]
    assert stats["miou"] == pytest.approx(np.mean(present), abs=0.02)
    objects = [stats["iou"][name] for name in OBJECTS if stats["iou"][name] is not None]
    assert stats["miou_objects"] == pytest.approx(np.mean(objects), abs=0.02)
    assert 0 <= stats["pixel_accuracy"] <= 100
    assert 0 <= stats["boundary_f"] <= 100
    assert stats["peak_memory_mb"] > 100  # torch alone takes more
    assert stats["images_per_second"] > 0
    assert (stats["protocol"]["name"], stats["protocol"]["version"]) == ("sseg", 1)
    assert stats["protocol"]["short_side"] == 64
    assert stats["protocol"]["background"] == "none"


def test_the_confusion_matrix_adds_up(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """confusion.csv holds every pixel once, under named rows and columns."""
    make_checkpoint(store)
    artifact = evaluate.run(EvalConfig(limit=3), store, name="mine", device="cpu")
    with artifact.file("confusion.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["truth", *CLASSES, "(no class)"]
    assert [row[0] for row in rows] == list(CLASSES)
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows])
    assert counts.sum() == 3 * 96 * 96
    accuracy = 100 * np.trace(counts[:, :-1]) / counts.sum()
    assert artifact.manifest.stats["pixel_accuracy"] == pytest.approx(accuracy, abs=0.01)


def test_the_same_evaluation_gives_the_same_scores(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint
) -> None:
    """Only the speed may differ, also when the batch size does."""
    make_checkpoint(store)
    results = []
    for batch_size in (2, 2, 3):
        config = EvalConfig(limit=5, batch_size=batch_size)
        stats = dict(evaluate.run(config, store, device="cpu").manifest.stats)
        del stats["images_per_second"], stats["peak_memory_mb"]
        results.append(stats)
    assert results[0] == results[1]
    assert results[2]["miou"] == pytest.approx(results[0]["miou"], abs=0.1)


def test_the_oracle_needs_no_checkpoint(store: ArtifactStore) -> None:
    """oracle:lab scores far above chance and has no parents."""
    config = EvalConfig(model="oracle:lab", limit=4)
    artifact = evaluate.run(config, store, device="cpu")
    stats = artifact.manifest.stats
    assert artifact.manifest.name == "oracle-lab-toyworld"
    assert artifact.manifest.parents == ()
    assert stats["protocol"]["name"] == "oracle"
    assert stats["protocol"]["masks"] == 8
    assert stats["miou"] > 30
    assert 0 < stats["milliseconds_per_image"] < 1000 / stats["images_per_second"]


def test_the_oracle_is_what_its_options_say(store: ArtifactStore) -> None:
    """K and the grid come from `oracle`; many segments fit the truth better than two."""
    accuracy = []
    for masks in (2, 32):
        oracle = PseudomaskConfig(masks=masks, grid=32)
        config = EvalConfig(model="oracle:lab", limit=4, oracle=oracle)
        stats = evaluate.run(config, store, device="cpu").manifest.stats
        assert (stats["protocol"]["masks"], stats["protocol"]["grid"]) == (masks, 32)
        accuracy.append(stats["pixel_accuracy"])
    assert accuracy[1] > accuracy[0] + 5


def test_options_that_do_nothing_for_an_oracle_are_refused(store: ArtifactStore) -> None:
    """A threshold for the oracle is a misunderstanding, not something to pass over."""
    with pytest.raises(ConfigError, match="threshold is not an option"):
        evaluate.run(EvalConfig(model="oracle:lab", threshold=0.5), store)
    oracle = PseudomaskConfig(features="rgb")
    with pytest.raises(ConfigError, match=r"oracle\.features is rgb, but the model is oracle:lab"):
        evaluate.run(EvalConfig(model="oracle:lab", oracle=oracle), store)


def test_options_of_the_oracle_need_an_oracle(store: ArtifactStore) -> None:
    """K for a checkpoint, which has no K, says what was probably meant."""
    with pytest.raises(ConfigError, match="Options of the pseudo-masks") as caught:
        evaluate.run(EvalConfig(oracle=PseudomaskConfig(masks=4)), store)
    assert "--model oracle:FEATURES" in caught.value.hint


def test_without_a_checkpoint_the_way_to_one_is_named(store: ArtifactStore) -> None:
    """The error names `sseg demo`, and nothing is left in the store."""
    with pytest.raises(ArtifactError, match="sseg demo"):
        evaluate.run(EvalConfig(limit=1), store)
    assert not list(store.root.rglob("scores"))


@pytest.mark.parametrize("background", ["threshold", "exclude"])
def test_real_photos_are_scored(
    store: ArtifactStore, make_checkpoint: MakeCheckpoint, real_data: Path, background: str
) -> None:
    """VOC photos of different sizes go through, with background and without."""
    make_checkpoint(store)
    config = EvalConfig.model_validate(
        {
            "benchmark": "voc2012",
            "root": str(real_data / "voc-mini"),
            "limit": 6,
            "background": background,
        }
    )
    stats = evaluate.run(config, store, device="cpu").manifest.stats
    labels = ["background", *VOC_CLASSES] if background == "threshold" else list(VOC_CLASSES)
    assert list(stats["iou"]) == labels
    assert stats["images"] == 6
    assert stats["protocol"]["background"] == background


@pytest.mark.slow
def test_the_oracle_on_real_photos_reaches_what_is_expected(
    store: ArtifactStore, real_data: Path
) -> None:
    """oracle:lab with K=8 on the photos of voc-mini val: mIoU at least 50 (RGB k-means: 39)."""
    config = EvalConfig(benchmark="voc2012", root=str(real_data / "voc-mini"), model="oracle:lab")
    stats = evaluate.run(config, store, device="cpu").manifest.stats
    assert stats["images"] == 100
    assert stats["miou"] >= 50


@pytest.mark.parametrize("background", ["threshold", "exclude"])
def test_the_paper_has_background_in_the_oracle(
    store: ArtifactStore, real_data: Path, background: str
) -> None:
    """It is a class of VOC that segments can be, or does not count."""
    config = EvalConfig.model_validate(
        {
            "benchmark": "voc2012",
            "root": str(real_data / "voc-mini"),
            "model": "oracle:rgb",
            "limit": 3,
            "background": background,
        }
    )
    stats = evaluate.run(config, store, device="cpu").manifest.stats
    assert ("background" in stats["iou"]) == (background == "threshold")
    assert len(stats["iou"]) == (21 if background == "threshold" else 20)
