"""`sseg selftrain` as a user runs it: from a teacher to a better student, interrupted and wrong."""

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

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sseg_cli.app import app
from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import read_tensors

TEACHERS = """
import time

import numpy as np

from sseg_core.evaluation.rivals.rival import Prediction


def noisy():
    '''Right on four pixels of five, and less sure where it is wrong.'''

    def segment(images, names):
        answers = []
        for image in images:
            truth = image[..., 0].astype(int) // 100 - 1
            draw = np.random.default_rng(int(image.sum()))
            wrong = draw.random(truth.shape) < 0.2
            labels = np.where(wrong, draw.integers(-1, len(names), truth.shape), truth)
            sure = np.where(wrong, 0.55, 0.8) + draw.normal(0, 0.08, truth.shape)
            sure = np.where(labels < 0, 1 - sure, sure)  # of the best class, which is not enough
            answers.append(Prediction(labels.astype(np.int16), sure.clip(0, 1).astype(np.float32)))
        return answers

    return segment


def unsure():
    '''Tells nothing of how sure it is.'''
    segment = noisy()
    return lambda images, names: [answer.label_map for answer in segment(images, names)]


def slow():
    segment = noisy()

    def slowly(images, names):
        time.sleep(0.2)
        return segment(images, names)

    return slowly


def constant():
    return lambda images, names: [np.zeros(image.shape[:2], int) for image in images]


def blind():
    '''Never sees the last class.'''
    segment = noisy()

    def without_last(images, names):
        answers = segment(images, names)
        last = len(names) - 1
        return [
            Prediction(np.where(a.label_map == last, 0, a.label_map), a.confidence)
            for a in answers
        ]

    return without_last
"""

SMALL = (
    "steps=40", "batch_size=4", "model.channels=16", "loader.short_side=32", "loader.crop_size=32",
    "loader.workers=0", "loader.photometric=0.2", "log_every=5", "checkpoint_every=10",
    "label.shard_size=6", "label.batch_size=2", "optim.lr=3e-3", "ema_decay=0",
    "loader.min_confidence=0.65",
    "model.backbone.options.channels=[8, 16, 24, 32]",
)  # fmt: skip


def _scene(number: int) -> np.ndarray:
    """Blocks of background, cat and dog, whose red tells the truth."""
    blocks = np.random.default_rng(number).integers(0, 3, (2, 2)).astype(np.uint8)
    return np.kron(blocks, np.ones((20, 18 + number % 3), np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of several sizes and modes in two splits."""
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    splits = {"train": range(24), "val": range(24, 32)}
    for split, numbers in splits.items():
        (root / f"{split}.txt").write_text("".join(f"{number:03d}\n" for number in numbers))
        for number in numbers:
            truth = _scene(number)
            image = Image.fromarray(np.stack([truth * 100, truth * 20, 200 - truth], axis=-1))
            image = image.convert("RGBA") if number % 5 == 0 else image
            image.save(root / f"images/{number:03d}.png")
            Image.fromarray(truth).save(root / f"masks/{number:03d}.png")
    (tmp_path / "teachers.py").write_text(TEACHERS)
    return root


def _command(data: Path, teacher: str, *options: str) -> list[str]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    teachers = data.parent / "teachers.py"
    place = ["--benchmark", f"folder:{data}", "--teacher", f"{teachers}:{teacher}"]
    fixed = ["--recipe", "tiny", "--device", "cpu"]
    return ["selftrain", *place, *fixed, *settings, *options]


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SSEG_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "80")
    return lambda teacher, *options: CliRunner().invoke(app, _command(data, teacher, *options))


def _json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _found(folder: Path, *kinds: str) -> list[Artifact]:
    store = ArtifactStore(folder)
    return [artifact for kind in kinds for artifact in store.artifacts(kind)]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_student_is_better_than_its_noisy_teacher(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    """One command; then the student is scored and asked like any other checkpoint."""
    made = _json(run("noisy", "--json", "--name", "plus", "--set", "steps=120"))
    teacher, student = made["rounds"]
    assert teacher["model"] == "teachers.py:noisy"
    assert student["model"] == "plus:v1"
    assert student["miou"] > teacher["miou"] + 5
    assert student["agreement"] == made["agreement"] > 60
    assert (made["kind"], made["teacher"], made["round"]) == ("checkpoint", "teachers.py:noisy", 1)
    assert made["images"] == 22  # a tenth of the 24 is held out

    again = ["eval", "--benchmark", f"folder:{data}", "--model", "plus", "--device", "cpu"]
    scores = _json(CliRunner().invoke(app, [*again, "--json"]))
    assert scores["miou"] == student["miou"]
    assert scores["protocol"]["background"] == "class"

    photo = str(data / "images/030.png")
    asked = ["predict", photo, "--model", "plus", "--device", "cpu", "--json", "--classes"]
    result = CliRunner().invoke(app, [*asked, "dog,cat"])
    image, summary = map(json.loads, result.stdout.splitlines())
    assert {entry["name"] for entry in image["classes"]} <= {"dog", "cat"}
    assert summary["model"] == "plus:v1"
    refused = CliRunner().invoke(app, [*asked, "dog,tiger"])
    assert refused.exit_code == 1
    told = json.loads(refused.stdout)
    assert "'tiger'" in told["error"]
    assert "teachers.py:noisy" in told["hint"]


def test_the_table_of_rounds_fits_a_terminal(run: Callable[..., Result]) -> None:
    """Three rounds, in which each student teaches the next; no line is broken."""
    few = ("--set", "steps=4", "--set", "label.max_share=1", "--set", "loader.min_confidence=0")
    result = run("noisy", "--rounds", "2", "--name", "plus", *few)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "mIoU", "95", "%", "accuracy", "agrees"]
    assert [line.split()[0] for line in lines[1:4]] == ["teachers.py:noisy", "plus:v1", "plus:v2"]
    assert lines[1].split()[-1] == "-"
    assert "next: sseg eval --compare plus-teacher:v1 plus:v2" in result.stdout


def test_rounds_end_when_agreement_stops_growing(run: Callable[..., Result]) -> None:
    """No student can agree by 100 points more than the one before."""
    few = ("--set", "steps=2", "--set", "label.max_share=1", "--set", "loader.min_confidence=0")
    made = _json(run("noisy", "--rounds", "4", "--json", "--set", "min_growth=100", *few))
    assert len(made["rounds"]) == 3
    assert made["version"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("half", ["labels", "training"])
def test_a_killed_command_goes_on(data: Path, tmp_path: Path, half: str) -> None:
    """Killed in either half and run again, it has the labels and weights of an undisturbed one."""
    command = [sys.executable, "-m", "sseg_cli", *_command(data, "slow", "--name", "plus")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SSEG_CACHE": str(tmp_path / "cache")}
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    subprocess.run(command, env={**environment, "SSEG_STORE": str(calm)}, check=True)
    environment["SSEG_STORE"] = str(killed)
    process = subprocess.Popen(command, env=environment)
    pattern = (
        "labels/plus/.work-*/done/**/*"
        if half == "labels"
        else "checkpoint/plus/.*/scratch/steps/step-*"
    )
    deadline = time.monotonic() + 120
    while not any(killed.glob(pattern)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert ("resuming at step" in again.stderr) == (half == "training")
    kinds = ("labels", "checkpoint", "scores")
    before, after = _found(calm, *kinds), _found(killed, *kinds)
    assert [a.reference for a in before] == [a.reference for a in after]
    for one, other in zip(before[:1], after[:1], strict=True):
        shards = [name for name in one.manifest.files if name.endswith(".tar")]
        assert len(shards) == 4
        for name in shards:
            assert one.manifest.files[name] == other.manifest.files[name]
    weights = [read_tensors(found[1].file("model.safetensors")) for found in (before, after)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert not list(killed.glob("*/*/.work-*"))


@pytest.mark.slow
def test_two_processes_make_one_student(run: Callable[..., Result], tmp_path: Path) -> None:
    """The labels are those of one process, and every artifact is made once."""
    alone = _json(run("noisy", "--json", "--name", "alone"))
    enough = ("--set", "steps=120", "--procs", "2")
    both = _json(run("noisy", "--json", "--name", "both", *enough))
    assert both["processes"] == 2
    one, other = (
        ArtifactStore(tmp_path / "store").find(name, "labels").manifest
        for name in ("alone", "both")
    )
    tars = [name for name in one.files if name.endswith(".tar")]
    assert [one.files[name] for name in tars] == [other.files[name] for name in tars]
    assert alone["rounds"][0]["miou"] == both["rounds"][0]["miou"]
    assert both["rounds"][1]["miou"] > both["rounds"][0]["miou"]
    assert len(_found(tmp_path / "store", "checkpoint")) == 2


@pytest.mark.parametrize(
    ("teacher", "options", "message", "hint"),
    [
        ("constant", (), "labels 100.00 % of all pixels 'cat'", "label.max_share"),
        ("noisy", ("--classes", "cat"), "Classes are given", "Give their folder"),
        ("nothing", (), "has no function 'nothing'", "noisy"),
        ("noisy", ("--set", "batch_size=2", "--procs", "2"), "one image at a time", "batch_size"),
        ("noisy", ("--set", "loader.scale=[2, 1]"), "loader.scale", "--set"),
        ("noisy", ("--set", "loader.crop_size=none"), "loader.crop_size", "--set"),
        ("noisy", ("--set", "model.channls=3"), "model.channls", "'channels'"),
        (
            "noisy",
            ("--set", "model.backbone.out_indices=[1]"),
            "the backbone returns 1",
            "out_indices",
        ),
        ("noisy", ("--set", "model.backbone.weights=none.pth"), "There is no weight file", "path"),
        ("noisy", ("--set", "publish=best"), "needs probes", "eval_every"),
        ("noisy", ("--recipe", "vco2012"), "no recipe 'vco2012'", "'voc2012'"),
        ("noisy", ("--labels", "nowhere"), "no labels artifact 'nowhere'", ""),
    ],
)
def test_what_cannot_work_is_told_in_one_sentence(
    run: Callable[..., Result], teacher: str, options: tuple[str, ...], message: str, hint: str
) -> None:
    """Exit code 1, the sentence, the next step, and nothing published."""
    result = run(teacher, "--json", *options)
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert message in told["error"]
    assert hint in told["hint"]
    assert not _found(Path(os.environ["SSEG_STORE"]), "checkpoint", "labels")


def test_a_teacher_without_confidence_teaches_with_all_its_labels(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """As most plug-ins are: no pixel is left out, and there is no share of sure ones."""
    made = _json(run("unsure", "--json", "--set", "steps=120"))
    teacher, student = made["rounds"]
    assert student["miou"] > teacher["miou"]
    [labels] = _found(tmp_path / "store", "labels")
    assert labels.manifest.stats["mean_confidence"] is None
    assert labels.manifest.stats["kept_at"] == {}


def test_classes_that_the_teacher_never_sees_are_named(run: Callable[..., Result]) -> None:
    """They are warned of before the student learns."""
    result = run("blind", "--set", "steps=2")
    assert result.exit_code == 0, result.output
    assert "warning" in result.stderr
    assert "no pixel was labelled 'dog', of 2 classes" in result.stderr


def test_probes_are_of_the_benchmark_that_is_learned(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """Held-out images of the same classes are scored and drawn while the student learns."""
    made = _json(run("noisy", "--json", "--set", "eval_every=20", "--set", "samples_every=40"))
    assert made["best_probe_miou"] >= 0
    assert (Path(made["artifact"]) / "samples/step-00000039.jpg").exists()


def test_labels_of_other_classes_are_refused(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    """The class lists are compared name by name."""
    assert run("noisy", "--name", "one", "--set", "steps=2").exit_code == 0
    (data / "classes.txt").write_text("background\ncat\nwolf\n")
    told = json.loads(run("noisy", "--labels", "one", "--json").stdout)
    assert "'dog'" in told["error"]
    assert "'wolf'" in told["error"]
    (data / "classes.txt").write_text("background\ncat\ndog\n")
    told = json.loads(run("blind", "--labels", "one", "--json").stdout)
    assert "were made by" in told["error"]
    assert len(_found(tmp_path / "store", "checkpoint")) == 1


def test_labels_are_used_again(run: Callable[..., Result], tmp_path: Path) -> None:
    """A second student of the same labels needs no teacher."""
    assert run("noisy", "--name", "one", "--set", "steps=2").exit_code == 0
    again = ["selftrain", "--labels", "one", "--recipe", "tiny", "--device", "cpu", "--json"]
    own = [setting for setting in (*SMALL, "steps=2") if not setting.startswith("label.")]
    settings = [word for setting in own for word in ("--set", setting)]
    kept = [word for word in settings if not word.startswith("label.")]
    kept = [
        w
        for i, w in enumerate(settings)
        if not w.startswith("label.")
        and not (w == "--set" and settings[i + 1].startswith("label."))
    ]
    made = _json(CliRunner().invoke(app, [*again, *kept, "--name", "two"]))
    assert made["rounds"][1]["labels"] == "one:v1"
    assert len(_found(tmp_path / "store", "labels")) == 1


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    """Images, classes and steps, with the whole configuration."""
    plan = json.loads(run("noisy", "--dry-run", "--json").stdout)
    assert plan["inputs"]["images"] == 24
    assert plan["inputs"]["classes"] == 2
    assert plan["config"]["steps"] == 40
    assert not (tmp_path / "store").exists()
