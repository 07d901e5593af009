"""COCO-Stuff is read as published and as mmsegmentation converts it, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.coco_stuff import coco_stuff, coco_stuff_classes
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest

KEYS = ("000000000139", "000000000285")
ORIGINAL = np.array([[0, 12, 181], [255, 91, 10]], np.uint8)
TRAIN_IDS = np.array([[0, 11, 170], [255, 80, 10]], np.uint8)
LABELS = [[0, 11, 170], [-2, 80, 10]]


def _request(root: Path, split: str = "val", limit: int | None = None) -> BenchmarkRequest:
    return BenchmarkRequest(root, split, limit, ArtifactStore(root / "store"))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes two images and their label maps of 2 x 3 pixels."""

    def write(
        images: str, truths: str, suffix: str = ".png", values: np.ndarray = ORIGINAL
    ) -> Path:
        for folder in (images, truths):
            (tmp_path / "coco" / folder).mkdir(parents=True, exist_ok=True)
        for key in KEYS:
            Image.new("RGB", (3, 2)).save(tmp_path / "coco" / images / f"{key}.jpg")
            Image.fromarray(values).save(tmp_path / "coco" / truths / f"{key}{suffix}")
        return tmp_path / "coco"

    return write


def test_the_classes_are_those_of_the_benchmark() -> None:
    """171 names, each once; places as in labels.txt of nightrome/cocostuff, less 11 unused."""
    classes = coco_stuff_classes()
    assert len(classes) == len(set(classes)) == 171
    places = {
        0: "person", 10: "fire hydrant", 11: "stop sign", 24: "backpack", 40: "wine glass",
        60: "dining table", 61: "toilet", 73: "book", 79: "toothbrush", 80: "banner",
        84: "building-other", 145: "sky-other", 170: "wood",
    }  # fmt: skip
    assert {label: classes[label] for label in places} == places


@pytest.mark.parametrize("truths", ["stuffthingmaps_trainval2017", "stuffthingmaps", "annotations"])
@pytest.mark.parametrize("images", ["val2017", "images/val2017"])
def test_the_published_labels_become_171(
    make: Callable[..., Path], images: str, truths: str
) -> None:
    """0 to 181 less eleven that were never annotated; 255 is void; no background."""
    root = make(images, f"{truths}/val2017")
    for folder in (root, root.parent):
        benchmark = coco_stuff(_request(folder))
        assert benchmark.keys == KEYS
        assert not benchmark.has_background
        assert benchmark.source == (
            f"label images in {truths}/val2017, original ids, 2 of the 5,000 images"
        )
        assert all(example.truth.tolist() == LABELS for example in benchmark)
    assert coco_stuff(_request(root, limit=1)).keys == KEYS[:1]


def test_label_maps_unpacked_over_the_images_are_found(make: Callable[..., Path]) -> None:
    """Both archives have a folder val2017."""
    benchmark = coco_stuff(_request(make("val2017", "val2017")))
    assert [example.truth.tolist() for example in benchmark] == [LABELS, LABELS]


def test_the_converted_labels_are_the_same_171(make: Callable[..., Path]) -> None:
    """Alone or beside the original ones and those of COCO-Object, as conversions leave them."""
    make("images/val2017", "annotations/val2017", "_labelTrainIds.png", TRAIN_IDS)
    root = make("images/val2017", "annotations/val2017", "_instanceTrainIds.png", TRAIN_IDS)
    alone = coco_stuff(_request(root))
    assert "annotations/val2017, train ids" in alone.source
    make("images/val2017", "annotations/val2017")
    for benchmark in (alone, coco_stuff(_request(root))):
        assert benchmark.keys == KEYS
        assert all(example.truth.tolist() == LABELS for example in benchmark)
    for path in root.glob("annotations/val2017/*_labelTrainIds.png"):
        path.unlink()
    benchmark = coco_stuff(_request(root))
    assert "original ids" in benchmark.source
    assert [example.truth.tolist() for example in benchmark] == [LABELS, LABELS]


def test_the_table_is_mmsegmentations(make: Callable[..., Path]) -> None:
    """Original ids become the train ids that clsID_to_trID of coco_stuff164k.py gives them."""
    spots = {10: 10, 12: 11, 24: 23, 26: 24, 27: 25, 30: 26, 43: 39, 45: 40, 64: 59, 66: 60,
             69: 61, 71: 62, 81: 72, 83: 73, 89: 79, 91: 80, 181: 170}  # fmt: skip
    root = make("val2017", "stuffthingmaps/val2017", values=np.array([list(spots)], np.uint8))
    Image.new("RGB", (len(spots), 1)).save(root / f"val2017/{KEYS[0]}.jpg")
    assert coco_stuff(_request(root)).load(KEYS[0]).truth.tolist() == [list(spots.values())]


@pytest.mark.parametrize("value", [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182, 254])
def test_ids_that_do_not_occur_are_bad_truth(make: Callable[..., Path], value: int) -> None:
    """One of the eleven means that the file is of another kind."""
    root = make("val2017", "stuffthingmaps/val2017", values=np.full((2, 3), value, np.uint8))
    with pytest.raises(ImageError, match=f"holds the value {value},"):
        coco_stuff(_request(root)).load(KEYS[0])


def test_all_other_ids_are_classes(make: Callable[..., Path]) -> None:
    """In order, without gaps."""
    unused = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    values = np.array([[value for value in range(182) if value not in unused]], np.uint8)
    root = make("val2017", "stuffthingmaps/val2017", values=values)
    Image.new("RGB", (171, 1)).save(root / f"val2017/{KEYS[0]}.jpg")
    assert coco_stuff(_request(root)).load(KEYS[0]).truth.tolist() == [list(range(171))]


def test_what_is_missing_is_named(make: Callable[..., Path], tmp_path: Path) -> None:
    """The folder, the split, the label maps, one of them: one sentence each, with the layout."""
    with pytest.raises(
        DataError, match=r"no COCO-Stuff with its val2017 in .*Expected: val2017/KEY"
    ):
        coco_stuff(_request(tmp_path))
    root = make("val2017", "stuffthingmaps/val2017")
    with pytest.raises(DataError, match=r"no split 'test' .* It has: train, val"):
        coco_stuff(_request(root, "test"))
    (root / f"stuffthingmaps/val2017/{KEYS[1]}.png").unlink()
    with pytest.raises(DataError, match=rf"{KEYS[1]}\.png is missing, of 2 label images"):
        coco_stuff(_request(root))
    (root / f"stuffthingmaps/val2017/{KEYS[0]}.png").unlink()
    with pytest.raises(DataError, match="There are no label maps of COCO-Stuff's val2017 in"):
        coco_stuff(_request(root))
