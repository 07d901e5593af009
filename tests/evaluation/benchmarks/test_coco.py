"""COCO-Object in its published layouts, against pycocotools on real photos, and damaged."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sseg_core.artifacts import ArtifactStore
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks import instances
from sseg_core.evaluation.benchmarks.coco import COCO_CLASSES, coco_object
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, Benchmark

# COCO numbers its categories from 1 to 90 and leaves out these.
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
NUMBERS = [number for number in range(1, 91) if number not in GAPS]
SIZE = (4, 6)


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def content() -> dict[str, Any]:
    """Three photos: a dog and a person, nothing, a toothbrush."""
    return {
        "images": [
            {"id": number, "height": 4, "width": 6, "file_name": f"{number:012d}.jpg"}
            for number in (30, 10, 20)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(NUMBERS, COCO_CLASSES, strict=True)
        ],
        "annotations": [
            {"id": 1, "image_id": 30, "category_id": 18, "segmentation": box(0, 0, 2, 2)},
            {"id": 2, "image_id": 30, "category_id": 1, "segmentation": box(0, 0, 6, 4)},
            {"id": 3, "image_id": 20, "category_id": 90, "segmentation": box(5, 3, 6, 4)},
        ],
    }


def write(folder: Path, value: Any, photos: str = "val2017", split: str = "val") -> Path:
    """Write an annotation file and its photos below a folder, and return the folder."""
    path = folder / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    (folder / photos).mkdir(parents=True, exist_ok=True)
    for image in value["images"]:
        Image.new("RGB", SIZE[::-1]).save(folder / photos / image["file_name"])
    return folder


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Benchmark]:
    def open_root(root: Path, split: str = "val", limit: int | None = None) -> Benchmark:
        store = ArtifactStore(tmp_path / "store")
        return coco_object(BenchmarkRequest(root, split, limit, store))

    return open_root


def test_the_classes_are_those_of_the_field(real_data: Path) -> None:
    """80 names in the order of the lists that others use."""
    names = json.loads((real_data / "classnames.json").read_text())["coco_object81"]
    assert ["background", *COCO_CLASSES] == names


@pytest.mark.parametrize(
    ("below", "photos"), [("", "val2017"), ("", "images/val2017"), ("coco", "val2017")]
)
def test_the_published_layouts_are_read(
    tmp_path: Path, opened: Callable[..., Benchmark], below: str, photos: str
) -> None:
    """The root is the folder of `annotations` or the one above; every photo is an example."""
    write(tmp_path / "data" / below, content(), photos)
    benchmark = opened(tmp_path / "data")
    assert (benchmark.name, benchmark.split, benchmark.has_background) == (
        "coco-object", "val", True,
    )  # fmt: skip
    assert benchmark.class_names == COCO_CLASSES
    assert benchmark.keys == ("000000000010", "000000000020", "000000000030")
    assert (
        benchmark.source
        == "instances of instances_val2017.json, merged by class, 3 of the 5,000 images"
    )
    empty, brush, both = benchmark
    assert (empty.truth == BACKGROUND).all()
    assert (brush.truth[3, 5], (brush.truth == BACKGROUND).sum()) == (79, 23)
    assert both.truth.tolist() == [[16, 16, 0, 0, 0, 0]] * 2 + [[0] * 6] * 2
    assert both.image.shape == (4, 6, 3)


def test_the_split_train_has_files_of_its_own(
    tmp_path: Path, opened: Callable[..., Benchmark]
) -> None:
    """train2017 is read for train, and not for val."""
    write(tmp_path, content(), "train2017", "train")
    benchmark = opened(tmp_path, "train", 2)
    assert (benchmark.split, len(benchmark)) == ("train", 2)
    assert "118,287" in benchmark.source
    with pytest.raises(DataError, match="There is no COCO with the split val"):
        opened(tmp_path, "val")


def test_label_maps_of_real_photos_equal_those_of_pycocotools(
    real_data: Path, opened: Callable[..., Benchmark]
) -> None:
    """On every photo of coco-mini: painted from the largest to the smallest, crowds first."""
    root = real_data / "coco-mini"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(root / "annotations" / "instances_val2017.json")
    benchmark = opened(root)
    assert benchmark.keys == tuple(f"{number:012d}" for number in sorted(coco.getImgIds()))
    crowds = 0
    for key in benchmark.keys:
        example = benchmark.load(key)
        entry = coco.imgs[int(key)]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=int(key)))
        crowds += sum(annotation["iscrowd"] for annotation in annotations)
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        expected = np.full((entry["height"], entry["width"]), -1)
        for number in sorted(
            range(len(masks)),
            key=lambda i: (-annotations[i]["iscrowd"], -int(masks[i].sum()), i),
        ):
            expected[masks[number]] = NUMBERS.index(annotations[number]["category_id"])
        assert (example.truth == expected).all(), key
        # The same area in all, by another way: the union of the run-length codes.
        union = coco_mask.merge([coco.annToRLE(annotation) for annotation in annotations])
        assert (example.truth >= 0).sum() == (coco_mask.area(union) if annotations else 0)
    assert crowds == 5


def test_a_second_opening_reads_no_annotations(
    tmp_path: Path, opened: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has it all, for a smaller limit as well; a changed file is read again."""
    write(tmp_path, content())
    first = list(opened(tmp_path))
    parse = instances.read_instances
    monkeypatch.setattr(instances, "read_instances", None)
    for example, again in zip(first, opened(tmp_path), strict=True):
        assert again.key == example.key
        assert again.truth.tolist() == example.truth.tolist()
    limited = opened(tmp_path, limit=2)
    assert limited.keys == ("000000000010", "000000000020")
    assert limited.source == opened(tmp_path).source
    monkeypatch.setattr(instances, "read_instances", parse)
    value = content()
    value["annotations"] = value["annotations"][1:]
    write(tmp_path, value)
    assert (opened(tmp_path).load("000000000030").truth == 0).all()


def without(value: dict[str, Any], number: int) -> dict[str, Any]:
    value["categories"] = [entry for entry in value["categories"] if entry["id"] != number]
    value["annotations"] = []
    return value


def with_names(value: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    for entry in value["categories"]:
        entry["name"] = names.get(entry["id"], entry["name"])
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            with_names(content(), {17: "dog", 18: "cat"}),
            r"has 'dog' where COCO has 'cat' \(class 16\)",
        ),
        (with_names(content(), {3: "automobile"}), r"has 'automobile' where COCO has 'car'"),
        (without(content(), 1), r"has 'bicycle' where COCO has 'person' \(class 1\)"),
        (without(content(), 90), r"ends where COCO has 'toothbrush' \(class 80\)"),
        (
            {**content(), "categories": [*content()["categories"], {"id": 91, "name": "hat"}]},
            r"has 'hat' where COCO has no more classes \(class 81\)",
        ),
    ],
)
def test_other_classes_are_refused_by_name(
    tmp_path: Path, opened: Callable[..., Benchmark], value: dict[str, Any], problem: str
) -> None:
    """The first name that differs is told."""
    write(tmp_path, value)
    with pytest.raises(DataError, match=problem):
        opened(tmp_path)


def test_missing_files_are_told_with_the_layout(
    tmp_path: Path, opened: Callable[..., Benchmark]
) -> None:
    """No annotations, photos that were not unpacked, and a split that COCO does not have."""
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(DataError, match="There is no COCO with the split val in") as info:
            opened(root)
        assert "annotations/instances_val2017.json and val2017" in info.value.hint
    with pytest.raises(DataError, match="There is no split 'test'"):
        opened(tmp_path, "test")
    write(tmp_path, content())
    (tmp_path / "val2017" / "000000000020.jpg").unlink()
    with pytest.raises(
        DataError, match=r"val2017/000000000020\.jpg is missing, of 3 photos that instances_val2017"
    ):
        opened(tmp_path)
    assert len(opened(tmp_path, limit=1)) == 1  # the others are not asked for
    (tmp_path / "val2017" / "000000000030.jpg").unlink()
    with pytest.raises(DataError, match=r"0020\.jpg and 1 more are missing, of 3 photos"):
        opened(tmp_path)


def test_photos_that_go_after_the_preparation_are_missed(
    tmp_path: Path, opened: Callable[..., Benchmark]
) -> None:
    """The store has the truth, but not the photos."""
    write(tmp_path, content())
    opened(tmp_path)
    (tmp_path / "val2017" / "000000000020.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000020\.jpg is missing"):
        opened(tmp_path)


def test_damaged_truth_is_an_error_of_its_image(
    tmp_path: Path, opened: Callable[..., Benchmark]
) -> None:
    """A damaged instance, and a photo of another size than the file says, spoil no other."""
    value = content()
    value["annotations"][0]["segmentation"] = {"size": [4, 6], "counts": "0" * 9}
    write(tmp_path, value)
    Image.new("RGB", (9, 9)).save(tmp_path / "val2017" / "000000000020.jpg")
    benchmark = opened(tmp_path)
    assert benchmark.load("000000000010").truth.shape == SIZE
    for key, problem in (
        ("000000000020", "has a truth of 6 x 4 pixels, but is 9 x 9 itself"),
        ("000000000030", r"has a damaged instance \(number 1\)"),
    ):
        with pytest.raises(ImageError, match=problem) as info:
            benchmark.load(key)
        assert info.value.reason == "bad truth"


@pytest.mark.parametrize("below", ["", "coco_stuff164k"])
def test_label_maps_converted_from_coco_stuff_are_read_without_instances(
    tmp_path: Path, opened: Callable[..., Benchmark], below: str
) -> None:
    """What GroupViT's conversion writes is scored as it is, and the source says so."""
    home = tmp_path / "data" / below
    images, truths = home / "images" / "val2017", home / "annotations" / "val2017"
    images.mkdir(parents=True)
    truths.mkdir(parents=True)
    for key, values in (("a", [0, 1, 80]), ("b", [17, 0, 81])):
        Image.new("RGB", (3, 1)).save(images / f"{key}.jpg")
        Image.fromarray(np.array([values], np.uint8)).save(truths / f"{key}_instanceTrainIds.png")
        Image.fromarray(np.array([[5, 5, 5]], np.uint8)).save(truths / f"{key}.png")
    benchmark = opened(tmp_path / "data")
    assert (benchmark.keys, benchmark.has_background) == (("a", "b"), True)
    assert benchmark.source == (
        "label maps of COCO-Stuff, converted to instanceTrainIds.png, 2 of the 5,000 images"
    )
    assert benchmark.load("a").truth.tolist() == [[BACKGROUND, 0, 79]]
    with pytest.raises(ImageError, match="81"):
        benchmark.load("b")
    assert len(opened(tmp_path / "data", limit=1)) == 1
    write(home, content(), "val2017")
    if not below:
        assert opened(tmp_path / "data").source.startswith("instances of")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """The benchmark is the same, its truth comes from the file."""
    root, store = write(tmp_path / "data", content()), ArtifactStore(tmp_path / "store")
    dry = coco_object(BenchmarkRequest(root, "val", 2, store, write=False))
    assert not store.root.exists()
    wet = coco_object(BenchmarkRequest(root, "val", 2, store))
    assert store.root.exists()
    assert dry.keys == wet.keys
    for mine, theirs in zip(dry, wet, strict=True):
        assert np.array_equal(mine.truth, theirs.truth)
