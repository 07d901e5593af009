"""The commands one after another, as a user runs them, on a small toy world."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

TRAIN = [
    "train", "--recipe", "tiny", "--set", "steps=12", "--set", "batch_size=8",
    "--set", "loader.load_size=32", "--set", "loader.crop_size=32",
    "--set", "checkpoint_every=3", "--set", "log_every=1",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sseg_cli", *arguments]


def sseg(folder: Path, *arguments: str, expect: int = 0) -> dict[str, Any]:
    result = subprocess.run(  # noqa: PLW1510 - the exit code is asserted below
        command(*arguments, "--json"), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == expect, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def predicted(folder: Path, *arguments: str, expect: int = 0) -> list[dict[str, Any]]:
    """Return what `sseg predict --json` prints: a line for each image, and one for all."""
    result = subprocess.run(  # noqa: PLW1510 - the exit code is asserted below
        command("predict", *arguments, "--json"), cwd=folder, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == expect, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds toy pairs and their masks."""
    folder = tmp_path_factory.mktemp("world")
    made = sseg(
        folder, "download", "toyworld", "--set", "toyworld.scenes=48",
        "--set", "toyworld.image_size=48", "--set", "shard_size=20",
    )  # fmt: skip
    assert (made["kind"], made["name"], made["version"], made["images"]) == (
        "pairs", "toyworld", 1, 48,
    )  # fmt: skip
    masks = sseg(folder, "pseudomask", "--set", "grid=24")
    assert (masks["kind"], masks["images"]) == ("masks", 48)
    return folder


@pytest.fixture(scope="module")
def trained(world: Path) -> Path:
    """The same folder with a checkpoint of a few steps."""
    made = sseg(world, *TRAIN, "--name", "run")
    assert (made["kind"], made["name"], made["steps"]) == ("checkpoint", "run", 12)
    return world


def metrics(folder: Path) -> list[tuple[float, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def test_a_trained_model_is_scored_and_predicts(trained: Path) -> None:
    """eval and predict take the newest checkpoint and print what they promise."""
    scores = sseg(trained, "eval", "--limit", "4")
    assert scores["kind"] == "scores"
    assert 0 <= scores["miou"] <= 100
    assert 0 <= scores["pixel_accuracy"] <= 100
    assert scores["images"] == 4
    assert {"iou", "images_per_second", "protocol", "miou_objects"} <= set(scores)
    Image.new("RGB", (70, 50), "green").save(trained / "photo.png")
    Image.new("RGB", (33, 33), "blue").save(trained / "other.png")
    image, other, found = predicted(
        trained, "photo.png", "other.png", "--classes", "house, tree,<b>", "--out", "results"
    )
    assert [image["file"], other["file"]] == ["photo.png", "other.png"]
    assert (image["width"], image["height"]) == (70, 50)
    assert {row["name"] for row in image["classes"]} <= {"house", "tree", "<b>"}
    assert found["class_names"] == ["house", "tree", "<b>"]
    assert (trained / "results" / "viewer.html").is_file()
    assert (trained / "results" / other["label_map"]).is_file()
    refused = predicted(trained, "photo.png", "--classes", "a", "--out", "results", expect=1)
    assert "not empty" in refused[0]["error"]
    assert sum(row["area_share"] for row in image["classes"]) == pytest.approx(1, abs=1e-3)
    with Image.open(Path(trained / found["artifact"]) / image["label_map"]) as labels:
        assert (labels.mode, labels.size) == ("P", (70, 50))
    with Image.open(Path(trained / found["artifact"]) / image["overlay"]) as overlay:
        assert overlay.width >= 70


def test_a_bad_image_does_not_stop_the_others(trained: Path) -> None:
    """It is reported in its place and shows in the exit code."""
    (trained / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    Image.new("RGB", (20, 20)).save(trained / "whole.png")
    bad, good, found = predicted(
        trained, "broken.jpg", "whole.png", "--classes", "tree,sky", expect=1
    )
    assert "error" in bad
    assert "classes" in good
    assert (found["images"], sum(found["failed"].values())) == (1, 1)


def test_standard_input_and_a_pipe(trained: Path) -> None:
    """An image comes in through a pipe and a line goes out; a reader may leave early."""
    Image.new("RGB", (20, 20)).save(trained / "piped.png")
    with (trained / "piped.png").open("rb") as stream:
        result = subprocess.run(
            command("predict", "-", "--classes", "tree,sky", "--json", "--name", "piped"),
            cwd=trained, stdin=stream, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
    image, _ = map(json.loads, result.stdout.splitlines())
    assert (image["file"], image["label_map"]) == ("-", "stdin.labels.png")


def test_the_oracle_needs_no_checkpoint(world: Path) -> None:
    """`oracle:lab` scores the pseudo-masks themselves, above what an untrained model gets."""
    scores = sseg(world, "eval", "--model", "oracle:lab", "--limit", "6")
    assert scores["miou"] > 30


def test_a_killed_run_ends_with_the_curve_of_an_uninterrupted_one(trained: Path) -> None:
    """kill -9 in the middle, the same command again: equal losses and equal weights."""
    whole = trained / "sseg-artifacts/checkpoint/run/v1"
    arguments = command(*TRAIN, "--name", "killed")
    process = subprocess.Popen(
        arguments, cwd=trained, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    home = trained / "sseg-artifacts/checkpoint/killed"
    deadline = time.monotonic() + 120
    while not list(home.glob(".work-*/scratch/steps/step-0000000[36]")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(home.glob("v*"))
    made = sseg(trained, *TRAIN, "--name", "killed")
    assert metrics(home / "v1") == metrics(whole)
    weights = (home / "v1/model.safetensors").read_bytes()
    assert weights == (whole / "model.safetensors").read_bytes()
    assert made["version"] == 1
    shutil.rmtree(home)


def test_a_non_finite_loss_names_its_samples(world: Path) -> None:
    """The run stops before the optimiser step, names keys, and publishes nothing."""
    result = sseg(
        world, *TRAIN, "--name", "exploding", "--set", "optim.lr=1e30", "--set",
        "optim.warmup_steps=0", expect=1,
    )  # fmt: skip
    assert "not finite at step" in result["error"]
    assert "samples: " in result["error"]
    assert not list((world / "sseg-artifacts/checkpoint/exploding").glob("v*"))


def test_the_artifacts_tell_their_lineage(trained: Path) -> None:
    """list, show and verify work on what the pipeline left."""
    listed = sseg(trained, "artifacts")["artifacts"]
    assert {"pairs", "masks", "checkpoint"} <= {row["kind"] for row in listed}
    shown = subprocess.run(
        command("artifacts", "show", "checkpoint/run"),
        cwd=trained, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "masks toyworld:v1" in shown
    assert "pairs toyworld:v1" in shown
    verified = sseg(trained, "artifacts", "verify", "checkpoint/run")
    assert verified["problems"] == []


def test_the_demo_ends_with_a_report_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Killed in training and started again, it keeps its scenes and masks and writes the report."""
    arguments = [
        "demo", "--set", "scenes=80", "--set", "steps=4", "--set", "val_scenes=3",
        "--set", "gallery=2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    store = tmp_path / "sseg-artifacts"
    deadline = time.monotonic() + 120
    while not list(store.glob("masks/demo/v1/manifest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = sseg(tmp_path, *arguments)
    report = (tmp_path / made["report"]).read_text(encoding="utf-8")
    assert "<html" in report
    assert f"{made['oracle_miou']:.1f}" in report
    assert [path.name for path in store.glob("pairs/demo/v*")] == ["v1"]
    assert [path.name for path in store.glob("scores/demo-report/*")] == ["v1"]
