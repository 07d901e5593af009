"""LVIS in its two versions, against pycocotools on real photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sseg_core.artifacts import ArtifactStore
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.lvis import lvis_v05, lvis_v1
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import VOID, Benchmark

Opener = Callable[[BenchmarkRequest], Benchmark]


def opened(opener: Opener, root: Path, tmp_path: Path, split: str = "val") -> Benchmark:
    return opener(BenchmarkRequest(root, split, None, ArtifactStore(tmp_path / "store")))


def content(classes: int = 1203) -> dict[str, Any]:
    """As LVIS v1: no file names, photos of both of COCO's folders, and no crowds."""
    return {
        "images": [
            {"id": 1, "height": 4, "width": 6, "coco_url": "http://x.org/val2017/01.jpg"},
            {"id": 2, "height": 4, "width": 6, "coco_url": "http://x.org/train2017/02.jpg"},
        ],
        "categories": [
            {"id": number, "name": f"bow_(kind_{number})", "frequency": "f"}
            for number in range(1, classes + 1)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 2,
                "category_id": 1203,
                "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]],
            }
        ],
    }


def write(root: Path, annotations: str, photos: str, value: dict[str, Any]) -> None:
    path = root / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    for image in value["images"]:
        photo = root / photos / "/".join(image["coco_url"].split("/")[-2:])
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(photo)


@pytest.mark.parametrize(
    ("annotations", "photos"),
    [
        ("lvis_v1_val.json", ""),
        ("annotations/lvis_v1_val.json", ""),
        ("annotations/lvis_v1_val.json", "images"),
        ("lvis/lvis_v1_val.json", "coco"),
        ("lvis_v1_val_part.json", ""),
    ],
)
def test_the_published_layouts_are_read(tmp_path: Path, annotations: str, photos: str) -> None:
    """Photos lie in COCO's folders; what no instance covers does not count."""
    write(tmp_path / "data", annotations, photos, content())
    benchmark = opened(lvis_v1, tmp_path / "data", tmp_path)
    assert (benchmark.name, benchmark.has_background, len(benchmark.class_names)) == (
        "lvis-v1", False, 1203,
    )  # fmt: skip
    assert benchmark.class_names[6] == "bow (kind 7)"
    assert benchmark.keys == ("01", "02")
    assert benchmark.source.endswith("2 of the 19,809 images")
    assert (benchmark.load("01").truth == VOID).all()
    truth = benchmark.load("02").truth
    assert truth.tolist() == [[1202, 1202, -2, -2, -2, -2]] * 2 + [[-2] * 6] * 2


def test_label_maps_of_real_photos_equal_those_of_pycocotools(
    real_data: Path, tmp_path: Path
) -> None:
    """On every photo of lvis-mini (v0.5), whose files have the names of COCO 2014."""
    root = real_data / "lvis-mini"
    benchmark = opened(lvis_v05, root, tmp_path)
    published = json.loads(next(root.glob("*.json")).read_text())
    names = [entry["name"] for entry in sorted(published["categories"], key=lambda e: e["id"])]
    assert [name.replace(" ", "_") for name in benchmark.class_names] == [
        name.replace(" ", "_") for name in names
    ]
    assert len(set(benchmark.class_names)) == len(names) == 1230
    assert not any("_" in name for name in benchmark.class_names)
    assert len(benchmark) == len(published["images"]) == 6
    instances = 0
    for image in published["images"]:
        size = (image["height"], image["width"])
        masks = []
        for annotation in published["annotations"]:
            if annotation["image_id"] == image["id"]:
                outlines = coco_mask.frPyObjects(annotation["segmentation"], *size)
                mask = coco_mask.decode(outlines).any(axis=2)
                assert abs(int(mask.sum()) - annotation["area"]) <= 0.05 * annotation["area"] + 20
                masks.append((mask, annotation["category_id"] - 1))
        expected = np.full(size, VOID)
        for mask, label in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            expected[mask] = label
        example = benchmark.load(f"{image['id']:012d}")
        assert example.image.shape[:2] == size
        assert (example.truth == expected).all()
        instances += len(masks)
    assert instances == 47


@pytest.mark.parametrize(
    ("opener", "name", "classes", "message"),
    [
        (lvis_v05, "lvis_v0.5_val.json", 1203, r"1203 classes, but LVIS v0\.5 has 1230"),
        (lvis_v1, "lvis_v1_val.json", 1230, r"1230 classes, but LVIS v1 has 1203"),
    ],
)
def test_a_file_of_the_other_version_is_refused(
    tmp_path: Path, opener: Opener, name: str, classes: int, message: str
) -> None:
    """The versions number their classes differently."""
    write(tmp_path, name, "", content(classes))
    with pytest.raises(DataError, match=message):
        opened(opener, tmp_path, tmp_path)


def test_missing_and_ambiguous_files_are_told(tmp_path: Path) -> None:
    """No annotations, photos of train2017 that were not unpacked, two parts, no such split."""
    with pytest.raises(DataError, match=r"There is no LVIS v1 with the split val in") as info:
        opened(lvis_v1, tmp_path, tmp_path)
    assert "lvis_v1_val.json" in info.value.hint
    write(tmp_path, "lvis_v1_val_a.json", "", content())
    (tmp_path / "train2017" / "02.jpg").unlink()
    with pytest.raises(DataError, match=r"train2017/02\.jpg is missing, of 2 photos"):
        opened(lvis_v1, tmp_path, tmp_path)
    write(tmp_path, "lvis_v1_val_b.json", "", content())
    with pytest.raises(
        DataError, match=r"holds 2 parts of LVIS v1 val: lvis_v1_val_a\.json, lvis_v1"
    ):
        opened(lvis_v1, tmp_path, tmp_path)
    with pytest.raises(DataError, match="There is no split 'minival'"):
        opened(lvis_v1, tmp_path, tmp_path, "minival")
