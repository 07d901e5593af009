"""Benchmarks are read as published, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.config import EvalConfig
from sseg_core.data.images import ImageError
from sseg_core.data.toyworld import CLASSES, OBJECTS, render_scene
from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.benchmarks import VOC_CLASSES, open_benchmark, toyworld, voc2012

TRUTH = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOCdevkit with two images of 2 x 3 pixels."""
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    (home / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n2007_000002\r\n")
    for key in ("2007_000001", "2007_000002"):
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(home / f"JPEGImages/{key}.jpg")
        _save_truth(home, key, TRUTH)
    return home


def _save_truth(home: Path, key: str, truth: np.ndarray) -> None:
    picture = Image.fromarray(truth).convert("P")
    picture.putdata(truth.ravel().tolist())
    picture.putpalette([value % 256 for value in range(768)])
    picture.save(home / f"SegmentationClass/{key}.png")


def test_voc_is_found_from_any_of_its_folders(voc: Path) -> None:
    """VOC2012, VOCdevkit and its parent name the same benchmark."""
    for root in (voc, voc.parent, voc.parents[1]):
        benchmark = voc2012(root)
        assert benchmark.keys == ("2007_000001", "2007_000002")
        assert len(benchmark) == 2


def test_voc_examples_have_palette_labels(voc: Path) -> None:
    """Truth is the palette index, 255 kept; class i has label i + 1; background is not a class."""
    benchmark = voc2012(voc)
    assert benchmark.has_background
    assert len(benchmark.class_names) == 20
    assert (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == ("aeroplane", "person", "monitor")
    for example in benchmark:
        assert example.image.shape == (2, 3, 3)
        assert np.array_equal(example.truth, TRUTH)


def test_a_limit_takes_the_first_images(voc: Path) -> None:
    """`limit` cuts the list."""
    config = EvalConfig(benchmark="voc2012", root=str(voc), limit=1)
    assert open_benchmark(config).keys == ("2007_000001",)


def test_a_missing_voc_says_what_is_expected_where(tmp_path: Path) -> None:
    """The hint shows the layout."""
    with pytest.raises(DataError, match="There is no VOC 2012") as caught:
        voc2012(tmp_path)
    assert "SegmentationClass/KEY.png" in caught.value.hint


@pytest.mark.parametrize("split", ["train", "test", "../../secret"])
def test_a_missing_split_names_those_there_are(voc: Path, split: str) -> None:
    """A split without its list, an unknown one and a path are all refused."""
    with pytest.raises(DataError, match="no split") as caught:
        voc2012(voc, split)
    assert "val" in caught.value.hint


def test_a_missing_file_is_named(voc: Path) -> None:
    """A listed image without its truth is an error before anything is computed."""
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(DataError, match=r"2007_000002\.png is missing"):
        voc2012(voc)


def test_a_key_that_is_a_path_is_refused(voc: Path) -> None:
    """Keys come from a file of a stranger; they never leave the folder."""
    (voc / "ImageSets/Segmentation/val.txt").write_text("../../../etc/passwd")
    with pytest.raises(DataError, match="names no image"):
        voc2012(voc)


def test_damaged_truth_is_an_image_error(voc: Path) -> None:
    """Wrong size, wrong labels, RGB and rubbish have the reason `bad truth`, naming the file."""
    path = voc / "SegmentationClass/2007_000001.png"
    benchmark = voc2012(voc)
    _save_truth(voc, "2007_000001", np.zeros((3, 3), np.uint8))
    _expect_bad_truth(benchmark.load, path)
    _save_truth(voc, "2007_000001", np.full((2, 3), 21, np.uint8))
    _expect_bad_truth(benchmark.load, path)
    Image.new("RGB", (3, 2)).save(path)
    _expect_bad_truth(benchmark.load, path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    _expect_bad_truth(benchmark.load, path)


def _expect_bad_truth(load: object, path: Path) -> None:
    assert callable(load)
    with pytest.raises(ImageError, match=path.name) as caught:
        load("2007_000001")
    assert caught.value.reason == "bad truth"


def test_toyworld_examples_are_held_out_scenes() -> None:
    """They are the scenes of the split `val`; the labels index the classes; no background."""
    benchmark = toyworld(seed=3, size=40, count=2)
    assert benchmark.class_names == CLASSES
    assert dict(benchmark.subsets) == {"objects": OBJECTS}
    assert not benchmark.has_background
    for index, example in enumerate(benchmark):
        scene = render_scene(3, index, 40, split="val")
        assert np.array_equal(example.image, scene.image)
        assert np.array_equal(example.truth, scene.label_map)
    assert len(open_benchmark(EvalConfig())) == 200
    assert len(open_benchmark(EvalConfig(limit=5))) == 5


def test_unknown_benchmarks_and_splits_get_a_suggestion() -> None:
    """`voc` is nearest to voc2012; a benchmark on disk needs a root; toyworld has no `test`."""
    with pytest.raises(ConfigError, match="voc2012"):
        open_benchmark(EvalConfig(benchmark="voc201"))
    with pytest.raises(ConfigError, match="--root"):
        open_benchmark(EvalConfig(benchmark="voc2012"))
    with pytest.raises(DataError, match="no split 'test'"):
        open_benchmark(EvalConfig(split="test"))


def test_the_real_voc_photos_are_read(real_data: Path) -> None:
    """The 100 photos of voc-mini's val have truth of their own size with VOC's labels."""
    benchmark = voc2012(real_data / "voc-mini")
    assert len(benchmark) == 100
    seen: set[int] = set()
    for key in benchmark.keys[:10]:
        example = benchmark.load(key)
        assert example.truth.shape == example.image.shape[:2]
        seen |= set(np.unique(example.truth).tolist())
    assert {0, 255} < seen
