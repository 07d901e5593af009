"""ADE20K is read as the Scene Parsing Benchmark publishes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.ade20k import ade20k, ade20k_classes
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest

TRUTH = np.array([[0, 1, 150], [13, 0, 2]], np.uint8)


def _request(root: Path, split: str = "val", limit: int | None = None) -> BenchmarkRequest:
    return BenchmarkRequest(root, split, limit, ArtifactStore(root / "store"))


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """An ADEChallengeData2016 with two images of 2 x 3 pixels in val."""
    home = tmp_path / "ADEChallengeData2016"
    for folder in ("images/validation", "annotations/validation"):
        (home / folder).mkdir(parents=True)
    for key in ("ADE_val_00000001", "ADE_val_00000002"):
        Image.new("RGB", (3, 2)).save(home / f"images/validation/{key}.jpg")
        Image.fromarray(TRUTH).save(home / f"annotations/validation/{key}.png")
    return home


def test_the_classes_are_those_of_the_benchmark() -> None:
    """150 names, each once; places as in objectInfo150.txt of CSAILVision/sceneparsing."""
    classes = ade20k_classes()
    assert len(classes) == len(set(classes)) == 150
    places = {
        1: "wall", 2: "building", 8: "bed", 13: "person", 21: "car", 45: "chest of drawers",
        66: "toilet", 91: "airplane", 106: "conveyer belt", 128: "bicycle", 139: "ashcan",
        142: "crt screen", 150: "flag",
    }  # fmt: skip
    assert {label: classes[label - 1] for label in places} == places


def test_0_is_void_and_1_the_first_class(ade: Path) -> None:
    """No pixel is background; the folder and its parent name the same benchmark."""
    for root in (ade, ade.parent):
        benchmark = ade20k(_request(root))
        assert benchmark.keys == ("ADE_val_00000001", "ADE_val_00000002")
        assert not benchmark.has_background
        assert benchmark.source == ("label images in annotations/validation, 2 of the 2,000 images")
        for example in benchmark:
            assert example.truth.tolist() == [[-2, 0, 149], [12, -2, 1]]
    assert ade20k(_request(ade, limit=1)).keys == ("ADE_val_00000001",)


def test_values_beyond_150_are_bad_truth(ade: Path) -> None:
    """Label maps of the full ADE20K, of thousands of classes, are not taken for these."""
    path = ade / "annotations/validation/ADE_val_00000002.png"
    Image.fromarray(np.full((2, 3), 151, np.uint8)).save(path)
    benchmark = ade20k(_request(ade))
    with pytest.raises(ImageError, match="the value 151"):
        benchmark.load("ADE_val_00000002")
    assert benchmark.load("ADE_val_00000001").truth.shape == (2, 3)


def test_what_is_missing_is_named(ade: Path, tmp_path: Path) -> None:
    """The folder, the split, an image, a label image: one sentence each, with the layout."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"There is no ADE20K in .*Expected in ADEChallengeData2016"
    ):
        ade20k(_request(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"no split 'test' .* It has: train, val"):
        ade20k(_request(ade, "test"))
    with pytest.raises(DataError, match=r"images/training is missing\. Expected"):
        ade20k(_request(ade, "train"))
    (ade / "images/validation/ADE_val_00000002.jpg").unlink()
    with pytest.raises(DataError, match=r"ADE_val_00000002\.jpg is missing, of 2 images"):
        ade20k(_request(ade))
    (ade / "annotations/validation/ADE_val_00000002.png").unlink()
    (ade / "annotations/validation/ADE_val_00000001.png").unlink()
    with pytest.raises(DataError, match=r"ADE_val_00000001\.png is missing, of 1 label images"):
        ade20k(_request(ade))
