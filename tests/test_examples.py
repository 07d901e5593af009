"""The Python examples run as their docstrings say."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def folder(tmp_path: Path, make_checkpoint: Callable[[ArtifactStore], Artifact]) -> Path:
    """A folder with a store, photos of two sizes, and a file of class names."""
    make_checkpoint(ArtifactStore(tmp_path / "sseg-artifacts"))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(40, 60), (33, 47), (40, 60)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "names.txt").write_text("# mine\nhome=house|cottage\ntree, sky\n")
    return tmp_path


def _run(folder: Path, name: str, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SSEG_STORE"}
    result = subprocess.run(  # noqa: PLW1510 - the exit code is asserted below
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("classes", ["home, tree, sky", "@names.txt"])
def test_one_photo(folder: Path, classes: str) -> None:
    """Shares that sum to all of it, and an overlay; names as text and as a file."""
    shown = _run(folder, "predict_in_python.py", "photos/0.png", classes)
    lines = [line.split() for line in shown.splitlines()]
    assert [line[0] for line in lines] == ["home", "tree", "sky"]
    assert sum(float(line[1]) for line in lines) == pytest.approx(100, abs=0.2)
    with Image.open(folder / "overlay.png") as overlay:
        assert overlay.width >= 60


def test_a_table_of_areas_over_a_folder(folder: Path) -> None:
    """A line for each photo, in the order of their names."""
    rows = list(
        csv.reader(io.StringIO(_run(folder, "areas_of_a_folder.py", "photos", "names.txt")))
    )
    assert rows[0] == ["photo", "home", "tree", "sky", "background"]
    assert [row[0] for row in rows[1:]] == ["0.png", "1.png", "2.png"]
    for row in rows[1:]:
        assert sum(map(float, row[1:])) == pytest.approx(100, abs=0.3)
