"""`sseg train` as a user and a scheduler run it: killed, stopped, resumed, on several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sseg_core.checkpoint import read_tensors

pytestmark = pytest.mark.slow

SMALL = [
    "train", "--recipe", "tiny", "--set", "batch_size=8", "--set", "loader.load_size=32",
    "--set", "loader.crop_size=32", "--set", "log_every=1",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sseg_cli", *arguments]


def finished(folder: Path, *arguments: str, expect: int = 0) -> tuple[dict[str, Any], str]:
    result = subprocess.run(  # noqa: PLW1510 - the exit code is asserted below
        command(*arguments, "--json"), cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == expect, result.stderr
    return json.loads(result.stdout), " ".join(result.stderr.split())


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments, "--json"), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 180
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return found


def home(folder: Path, name: str) -> Path:
    return folder / "sseg-artifacts/checkpoint" / name


def steps_saved(folder: Path, name: str) -> list[int]:
    paths = home(folder, name).glob(".work-*/scratch/steps/step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in paths)


def losses(path: Path) -> dict[int, float]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds toy pairs and their masks."""
    folder = tmp_path_factory.mktemp("world")
    finished(
        folder, "download", "toyworld", "--set", "toyworld.scenes=48",
        "--set", "toyworld.image_size=48", "--set", "shard_size=20",
    )  # fmt: skip
    finished(folder, "pseudomask", "--set", "grid=24")
    return folder


def test_sigterm_writes_a_checkpoint_and_ends(world: Path) -> None:
    """Exit code 143; the same command resumes to the curve and weights of an unstopped run."""
    steps = [*SMALL, "--set", "steps=40", "--set", "checkpoint_every=1000"]
    process = started(world, *steps, "--name", "stopped")
    metrics = home(world, "stopped")
    wait_for(
        lambda: any(losses(p.parent) for p in metrics.glob(".work-*/*/metrics.jsonl")), process
    )
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Stopped by SIGTERM" in json.loads(out)["error"]
    (at,) = steps_saved(world, "stopped")
    made, _ = finished(world, *steps, "--name", "stopped")
    whole, _ = finished(world, *steps, "--name", "unstopped")
    folders = [world / run["artifact"] for run in (made, whole)]
    assert 0 < at < 40
    assert losses(folders[0]) == losses(folders[1])
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


def test_sigusr1_writes_a_checkpoint_and_goes_on(world: Path) -> None:
    """At the next step, without an end to the run."""
    steps = [*SMALL, "--set", "steps=60", "--set", "checkpoint_every=1000"]
    process = started(world, *steps, "--name", "saved")
    metrics = home(world, "saved")
    wait_for(
        lambda: any(losses(p.parent) for p in metrics.glob(".work-*/*/metrics.jsonl")), process
    )
    process.send_signal(signal.SIGUSR1)
    assert len(wait_for(lambda: steps_saved(world, "saved"), process)) == 1
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == 60


def test_two_processes_train_resume_and_change_their_number(world: Path) -> None:
    """A killed rank ends the job in one sentence; one process goes on, with a warning."""
    steps = [*SMALL, "--set", "steps=16", "--set", "checkpoint_every=2", "--name", "pair"]
    process = started(world, *steps, "--procs", "2")
    wait_for(lambda: steps_saved(world, "pair"), process)
    os.kill(_ranks_of(process.pid)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "SIGKILL" in json.loads(out)["error"]
    assert "Traceback" not in err, err
    assert err.count("Error:") == 1
    made, noted = finished(world, *steps)
    assert (made["processes"], made["steps"]) == (1, 16)
    assert "saved by 2 processes and goes on with 1" in noted
    assert sorted(losses(world / made["artifact"])) == list(range(16))


def test_two_processes_end_with_one_checkpoint(world: Path) -> None:
    """One JSON object on stdout, whose model predicts."""
    made, _ = finished(
        world, *SMALL, "--set", "steps=3", "--set", "micro_batch_size=2", "--name", "two",
        "--procs", "2",
    )  # fmt: skip
    assert (made["processes"], made["version"]) == (2, 1)
    weights = read_tensors(world / made["artifact"] / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_failing_rank_is_one_error(world: Path) -> None:
    """Both ranks lose their footing; the sentence is printed once, with samples of both."""
    result, noted = finished(
        world, *SMALL, "--set", "steps=9", "--set", "optim.lr=1e30", "--set",
        "optim.warmup_steps=0", "--name", "exploding", "--procs", "2", expect=1,
    )  # fmt: skip
    assert "not finite at step" in result["error"]
    assert noted.count("Error:") == 1


def _ranks_of(parent: int) -> list[int]:
    """Return the processes that joined the group: those started to run the worker, by rank."""
    ranks = {}
    for entry in Path("/proc").iterdir():
        try:
            environ = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        values = dict(item.partition("=")[::2] for item in environ)
        if int(stat[1]) == parent and entry.name.isdigit():
            ranks[values.get("RANK", entry.name)] = int(entry.name)
    return [ranks[key] for key in sorted(ranks)]
