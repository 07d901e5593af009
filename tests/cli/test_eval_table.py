"""How `sseg eval --model oracle:all` looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sseg_cli.app import app
from sseg_core.evaluation.rivals.table1 import GENERATORS

ARGUMENTS = ["eval", "--model", "oracle:all", "--limit", "2", "--device", "cpu"]
LEFT_OUT = [generator.name for generator in GENERATORS if generator.supervision != "none"]


@pytest.fixture(autouse=True)
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Two rows can be made."""
    monkeypatch.setenv("SSEG_STORE", str(tmp_path / "store"))
    here = {"rgb", "lab"}.__contains__
    monkeypatch.setattr("sseg_core.evaluation.rivals.table1.weights_at_hand", here)
    rows = tuple(g for g in GENERATORS if g.clustering == "kmeans" or g.supervision != "none")
    monkeypatch.setattr("sseg_core.stages.evaluate_table.GENERATORS", rows)
    monkeypatch.setattr("sseg_core.evaluation.rivals.table1.GENERATORS", rows)
    return CliRunner()


def test_a_wide_terminal_gets_a_table(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a generator within 80 columns; what is left out is named below with its reason."""
    monkeypatch.setenv("COLUMNS", "80")
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 0, result.output
    title, header, first, second, paper, *rest = result.stdout.splitlines()
    assert title == "toyworld val, 2 images"
    assert header.split()[:4] == ["generator", "sup.", "K", "mIoU"]
    assert max(map(len, (header, first, second))) <= 80
    assert first.split()[:5] == ["rgb", "+", "k-means", "none", "8"]
    assert len(first.split()) == len(second.split()) == 11
    assert "S-Seg Table 1" in paper
    assert [line.partition(":")[0] for line in rest[:-1]] == LEFT_OUT
    assert rest[-1].startswith("scores oracle-all-toyworld:v1")


def test_a_narrow_terminal_gets_a_block_for_each_row(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut off at 40 columns."""
    monkeypatch.setenv("COLUMNS", "40")
    result = runner.invoke(app, ARGUMENTS)
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    for block in ("rgb + k-means", "lab + k-means"):
        begin = lines.index(f"generator  {block}")
        names = [line[:10].rstrip() for line in lines[begin : begin + 9]]
        assert names == [
            "generator", "sup.", "K", "mIoU", "bound. F", "pix. acc.", "ms/image", "MB",
            "paper mIoU",
        ]  # fmt: skip
        assert float(lines[begin + 3].split()[1]) > 10
        assert max(map(len, lines[begin : begin + 9])) <= 40


def test_json_is_one_object_with_rows(runner: CliRunner) -> None:
    """Every row, made or missing, with what was measured."""
    result = runner.invoke(app, [*ARGUMENTS, "--json", "--set", "oracle.masks=4"])
    found = json.loads(result.stdout)
    assert (found["kind"], found["model"]) == ("scores", "oracle:all")
    made = [row for row in found["rows"] if row["missing"] is None]
    assert [row["features"] for row in (r["protocol"] for r in made)] == ["rgb", "lab"]
    for row in made:
        assert row["protocol"]["masks"] == row["masks"] == 4
        assert {"miou", "boundary_f", "pixel_accuracy", "iou", "milliseconds_per_image"} <= {*row}
    assert [row["generator"] for row in found["rows"] if row["missing"]] == LEFT_OUT


def test_a_dry_run_says_which_rows_would_run(runner: CliRunner, tmp_path: Path) -> None:
    """And why the others would not; nothing is computed."""
    result = runner.invoke(app, [*ARGUMENTS, "--dry-run", "--json"])
    inputs = json.loads(result.stdout)["inputs"]
    what = {name: inputs.pop(name) for name in ("benchmark", "split", "images", "classes")}
    assert what == {"benchmark": "toyworld", "split": "val", "images": 2, "classes": 14}
    would_run = [name for name, note in inputs.items() if note == "would run"]
    assert would_run == ["rgb + k-means", "lab + k-means"]
    assert [name for name in inputs if name not in would_run] == LEFT_OUT
    assert not (tmp_path / "store").exists()
    result = runner.invoke(app, [*ARGUMENTS, "--dry-run", "--set", "oracle.weights=x.pth"])
    assert result.exit_code == 1
    assert "oracle.weights is not an option of oracle:all" in " ".join(result.stderr.split())
