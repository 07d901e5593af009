"""`sseg eval` as a user runs it: plug-ins, pages, comparisons, several processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sseg_cli.app import app

EVIL = "<b>\x1b[2Jcat</b>"

MODEL = """
import numpy as np


def perfect():
    return lambda images, names: [image[..., 0].astype(int) // 100 - 1 for image in images]


def constant():
    return lambda images, names: [np.zeros(image.shape[:2], int) for image in images]


def unsure():
    from sseg_core.evaluation.rivals.rival import Prediction

    def segment(images, names):
        perfect = [image[..., 0].astype(int) // 100 - 1 for image in images]
        return [Prediction(np.maximum(p, 0), (p >= 0) * np.float32(0.7)) for p in perfect]

    return segment


def broken():
    return lambda images, names: [np.full(image.shape[:2], np.nan) for image in images]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images whose red tells the truth: background, cat and dog."""
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    for number in range(6):
        truth = np.random.default_rng(number).integers(0, 3, (6, 8 + number)).astype(np.uint8)
        image = np.stack([truth * 100, truth, truth], axis=-1)
        Image.fromarray(image).save(root / f"images/{number}.png")
        truth[0, 0] = 255
        Image.fromarray(truth).save(root / f"masks/{number}.png")
    (tmp_path / "model.py").write_text(MODEL)
    return root


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SSEG_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(model: str, *options: str) -> Result:
        place = ["--benchmark", f"folder:{data}", "--model", f"{tmp_path / 'model.py'}:{model}"]
        return CliRunner().invoke(app, ["eval", *place, "--device", "cpu", *options])

    return invoke


def _scores(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    scores: dict[str, Any] = json.loads(result.stdout)
    return scores


def test_a_plug_in_is_scored_and_reported(run: Callable[..., Result]) -> None:
    """A file of one function: the scores, their protocol, and a page."""
    result = run("perfect", "--report")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "mIoU 100.00 (95 % 100.0 to 100.0)" in shown
    assert "protocol sseg v1" in shown
    assert "no confidence for a threshold" in shown
    page = Path(result.stdout.split("report: ")[1].splitlines()[0])
    assert "model.py:perfect" in page.read_text()


def test_a_score_of_a_plug_in_can_be_made_again(run: Callable[..., Result], tmp_path: Path) -> None:
    """The configuration names the file with its folder, and a note tells its content."""
    scores = _scores(run("perfect", "--json"))
    manifest = json.loads((Path(scores["artifact"]) / "manifest.json").read_text())
    assert manifest["config"]["model"] == f"{tmp_path / 'model.py'}:perfect"
    digest = hashlib.sha256((tmp_path / "model.py").read_bytes()).hexdigest()
    assert f"SHA-256 of model.py: {digest}" in scores["notes"]


def test_two_scores_are_compared(run: Callable[..., Result], tmp_path: Path) -> None:
    """The difference has its interval, and a page shows both."""
    run("perfect", "--name", "a"), run("constant", "--name", "b")
    result = CliRunner().invoke(app, ["eval", "--compare", "a", "b"])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "a:v1 - b:v1: +" in shown
    assert "paired): differ" in shown
    assert (tmp_path / "store/scores/comparison/v1/comparison.html").is_file()
    as_json = CliRunner().invoke(app, ["eval", "--compare", "a", "b", "--json"])
    assert json.loads(as_json.stdout)["apart"] == []
    run("perfect", "--name", "c", "--set", "background=exclude")
    result = CliRunner().invoke(app, ["eval", "--compare", "a", "c"])
    assert "do not compare, they differ in background" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["--compare", "a"], "needs two scores or more"),
        (["--compare", "a", "z"], "There is no scores artifact 'z'"),
        (["a"], "'a' is no option of sseg eval"),
    ],
)
def test_a_comparison_that_cannot_be_says_why(
    run: Callable[..., Result], runs: list[str], message: str
) -> None:
    """One sentence, exit code 1."""
    run("perfect", "--name", "a")
    result = CliRunner().invoke(app, ["eval", *runs])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_a_sweep_is_marked_as_tuned(run: Callable[..., Result]) -> None:
    """The best threshold is no score to report, and the page and the JSON say so too."""
    result = run("unsure", "--sweep-threshold", "--set", "threshold=0.9")
    shown = " ".join(result.stdout.split())
    assert "best 100.00 at 0.01: tuned on this split" in shown
    scores = _scores(run("unsure", "--sweep-threshold", "--set", "threshold=0.7", "--json"))
    assert scores["miou"] == 100
    assert scores["sweep"]["tuned_on_split"] is True
    assert scores["protocol"]["changed"] == ["threshold"]
    assert scores["protocol"]["tuned_on_split"] is False


def test_a_threshold_from_a_sweep_is_known_again(run: Callable[..., Result]) -> None:
    """A score at the best threshold of the split that it was found on says so; others do not."""
    best = _scores(run("unsure", "--sweep-threshold", "--json"))["sweep"]["best_threshold"]
    chosen = run("unsure", "--set", f"threshold={best}", "--json")
    assert _scores(chosen)["protocol"]["tuned_on_split"] is True
    assert "the best of a sweep over the same split" in chosen.stderr
    other = _scores(run("unsure", "--set", "threshold=0.3", "--json"))
    assert other["protocol"]["tuned_on_split"] is False


def test_a_check_says_where_a_score_does_not_compare(run: Callable[..., Result]) -> None:
    """The paper has no figure of a folder; an unknown row is an error before any work."""
    result = run("perfect", "--check", "auto")
    assert "Not comparable" in " ".join(result.stdout.split())
    result = run("perfect", "--check", "table3:S-Sge")
    assert result.exit_code == 1
    assert "Did you mean 'S-Seg'?" in " ".join(result.stderr.split())


def test_a_broken_model_ends_in_one_sentence(run: Callable[..., Result]) -> None:
    """NaN is no label."""
    result = run("broken")
    assert result.exit_code == 1
    assert result.stderr.count("Error:") == 1
    assert "Traceback" not in result.output


def test_class_names_of_strangers_stay_text(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    """A name that is markup or moves the cursor is refused or escaped, on screen and page."""
    (data / "classes.txt").write_text("background\n<b>cat</b>\n[red]dog[/red]\n")
    result = run("perfect", "--report")
    assert "<b>cat</b>" in result.stdout
    assert "[red]dog[/red]" in result.stdout
    page = next((tmp_path / "store").rglob("report.html")).read_text()
    assert "<b>cat" not in page
    (data / "classes.txt").write_text(f"background\n{EVIL}\ndog\n")
    result = run("perfect")
    assert "\x1b[2J" not in result.output


def test_a_dry_run_shows_the_protocol(run: Callable[..., Result], tmp_path: Path) -> None:
    """All of it, and nothing is written."""
    result = run("perfect", "--dry-run", "--json", "--protocol", "sclip")
    inputs = json.loads(result.stdout)["inputs"]
    assert inputs["images"] == 6
    assert inputs["protocol templates"] == ["imagenet80"]
    assert inputs["protocol background"] == "words"
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_two_processes_count_the_same(run: Callable[..., Result], tmp_path: Path) -> None:
    """The same matrix, the same counts of every image, the same interval."""
    alone = _scores(run("unsure", "--json", "--name", "alone", "--sweep-threshold"))
    both = _scores(run("unsure", "--json", "--name", "both", "--sweep-threshold", "--procs", "2"))
    differ = {"artifact", "name", "images_per_second", "peak_memory_mb"}
    assert {k: v for k, v in alone.items() if k not in differ} == {
        k: v for k, v in both.items() if k not in differ
    }
    for file in ("confusion.csv", "images.npz"):
        paths = [tmp_path / f"store/scores/{name}/v1/{file}" for name in ("alone", "both")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
