"""ImageNet-S is read as its authors' scripts lay it out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.imagenet_s import (
    imagenet_s,
    imagenet_s_50,
    imagenet_s_300,
    imagenet_s_919,
    imagenet_s_classes,
)
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest

VALUES = np.array([[0, 1, 50], [1000, 2, 49]])
KEYS = ("n01443537/ILSVRC2012_val_00000262", "n12998815/ILSVRC2012_val_00000001")


def _request(root: Path, split: str = "val", limit: int | None = None) -> BenchmarkRequest:
    return BenchmarkRequest(root, split, limit, ArtifactStore(root / "store"))


def _save(home: Path, key: str, values: np.ndarray = VALUES, part: str = "validation") -> None:
    for folder in (part, f"{part}-segmentation"):
        (home / folder / key).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", values.shape[::-1]).save(home / part / f"{key}.JPEG")
    rgb = np.stack([values % 256, values // 256, 0 * values], -1).astype(np.uint8)
    Image.fromarray(rgb).save(home / f"{part}-segmentation" / f"{key}.png")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An ImageNetS50 with an image of each of two classes."""
    for key in KEYS:
        _save(tmp_path / "ImageNetS50", key)
    return tmp_path / "ImageNetS50"


@pytest.mark.parametrize("count", [50, 300, 919])
def test_the_classes_are_those_of_the_benchmark(count: int) -> None:
    """As many as the set is called for, each once, in the order of the sorted WordNet ids."""
    classes = imagenet_s_classes(count)
    assert len(classes) == len({name.casefold() for name in classes.values()}) == count
    assert list(classes) == sorted(classes)
    assert classes["n01443537"] == "goldfish"
    assert classes["n12998815"] == "agaric"  # first and last of LUSSeg's list of 50


def test_the_sets_are_nested_and_in_the_order_of_the_authors() -> None:
    """Places in the lists of data.py in LUSSeg/ImageNet-S."""
    small, middle, large = (list(imagenet_s_classes(count).values()) for count in (50, 300, 919))
    assert set(small) < set(middle) < set(large)
    assert (small[3], small[16], small[-3]) == ("tree frog", "airliner", "lemon")
    assert (middle[0], middle[5], middle[-1]) == ("tench", "ostrich", "bolete")
    assert (large[0], large[2], large[-1]) == ("tench", "great white shark", "toilet paper")


@pytest.mark.parametrize("count", [50, 300, 919])
def test_the_names_are_those_of_the_shared_list(real_data: Path, count: int) -> None:
    """Independent copy of the lists: ids, order and names."""
    listed = json.loads((real_data / "classnames.json").read_text())[f"imagenet_s_{count}"]
    assert imagenet_s_classes(count) == {entry["wnid"]: entry["name_clip"] for entry in listed}


def test_red_and_green_are_the_label(home: Path) -> None:
    """0 is background, 1000 void, i the i-th class; keys keep the folder of the class."""
    for root in (home, home.parent):
        benchmark = imagenet_s_50(_request(root))
        assert (benchmark.name, benchmark.has_background) == ("imagenet-s-50", True)
        assert benchmark.keys == KEYS
        assert benchmark.source == ("label images in validation-segmentation, 2 of the 752 images")
        assert all(e.truth.tolist() == [[-1, 0, 49], [-2, 1, 48]] for e in benchmark)
    assert imagenet_s_50(_request(home, limit=1)).keys == KEYS[:1]


def test_labels_above_255_are_read(tmp_path: Path) -> None:
    """919 classes need the second byte; 920 is none of them."""
    home = tmp_path / "ImageNetS919"
    _save(home, "n01484850/a", np.array([[256, 919, 1000]]))
    _save(home, "n01484850/b", np.array([[920, 1, 2]]))
    benchmark = imagenet_s_919(_request(home))
    assert benchmark.load("n01484850/a").truth.tolist() == [[255, 918, -2]]
    with pytest.raises(ImageError, match="the value 920"):
        benchmark.load("n01484850/b")


def test_the_training_images_with_masks_are_a_split(home: Path) -> None:
    """train-semi lies beside validation in the same form."""
    _save(home, "n01443537/n01443537_23292", part="train-semi")
    assert imagenet_s_50(_request(home, "train-semi")).keys == ("n01443537/n01443537_23292",)


def test_another_of_the_three_sets_is_not_taken_for_this_one(home: Path, tmp_path: Path) -> None:
    """They number their classes differently, and nothing else in the files would tell."""
    for opener in (imagenet_s_300, imagenet_s_919):
        with pytest.raises(DataError, match="has the classes of imagenet-s-50, not of imagenet"):
            opener(_request(home))
    _save(tmp_path / "x", "n01484850/a")
    with pytest.raises(DataError, match="classes of imagenet-s-919, not of imagenet-s-50"):
        imagenet_s_50(_request(tmp_path / "x"))
    _save(tmp_path / "y", "n99999999/a")
    with pytest.raises(DataError, match="no set of ImageNet-S"):
        imagenet_s_50(_request(tmp_path / "y"))


def test_what_is_missing_is_named(home: Path, tmp_path: Path) -> None:
    """The folder, the split, an image, a class: one sentence each, with the layout."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no ImageNet-S with 300 .*Expected in ImageNetS300"):
        imagenet_s(_request(tmp_path / "empty"), classes=300)
    with pytest.raises(DataError, match=r"no split 'test' .* It has: val, train-semi"):
        imagenet_s_50(_request(home, "test"))
    (home / f"validation-segmentation/{KEYS[0]}.png").unlink()
    with pytest.raises(DataError, match=rf"{KEYS[0]}\.png is missing, of 2 label images"):
        imagenet_s_50(_request(home))
    (home / f"validation/{KEYS[0]}.JPEG").unlink()
    (home / "validation/n01443537").rmdir()
    with pytest.raises(DataError, match="validation/n01443537 is missing"):
        imagenet_s_50(_request(home))
