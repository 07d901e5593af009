"""`sseg eval` on real photos against numbers computed without any of its code."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchmetrics.classification import MulticlassConfusionMatrix

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.stages import evaluate

MODEL = '''
"""Colours decide: a model without any knowledge, whose answer anyone can compute."""
import numpy as np


def build():
    def segment(images, class_names):
        return [labels(image, len(class_names)) for image in images]

    return segment


def labels(image, classes):
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (3 * red + 5 * green + 7 * blue) // 64 % (classes + 1) - 1
'''

LIMIT = 40  # of each benchmark, for the sake of time
Pair = tuple[np.ndarray, np.ndarray]


def _voc(root: Path) -> Iterator[Pair]:
    """Photo and truth, labels 0 (background) to 20, 255 for void."""
    for key in (root / "ImageSets/Segmentation/val.txt").read_text().split()[:LIMIT]:
        photo = np.asarray(Image.open(root / f"JPEGImages/{key}.jpg").convert("RGB"))
        yield photo, np.asarray(Image.open(root / f"SegmentationClass/{key}.png")).astype(int)


def _coco(photos: Path, annotations: Path, elsewhere: int) -> Iterator[Pair]:
    """The same with the instances of pycocotools, large first, crowds before all others."""
    coco = COCO(str(annotations))
    labels = {category: index for index, category in enumerate(sorted(coco.getCatIds()), start=1)}
    for number in sorted(coco.getImgIds())[:LIMIT]:
        entry: dict[str, Any] = coco.loadImgs([number])[0]
        photo = np.asarray(Image.open(photos / entry["file_name"]).convert("RGB"))
        truth = np.full(photo.shape[:2], elsewhere)
        instances = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        masks = [(a, coco.annToMask(a).astype(bool)) for a in instances]
        masks.sort(key=lambda pair: (not pair[0].get("iscrowd", 0), -int(pair[1].sum())))
        for annotation, mask in masks:
            truth[mask] = labels[annotation["category_id"]]
        yield photo, truth


def _expected(pairs: Iterator[Pair], classes: int, model: dict[str, Any]) -> np.ndarray:
    """The confusion matrix of torchmetrics over 0 (background) to `classes`."""
    matrix = MulticlassConfusionMatrix(classes + 1, ignore_index=255 if classes < 255 else -1)
    for photo, truth in pairs:
        predicted = torch.from_numpy(model["labels"](photo, classes) + 1)
        matrix.update(predicted.flatten(), torch.from_numpy(truth).flatten())
    return matrix.compute().numpy()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "colours.py"
    path.write_text(MODEL)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["voc2012", "coco-object", "lvis-v0.5"])
def test_the_numbers_are_those_of_anyone(
    real_data: Path, tmp_path: Path, plugin: Path, benchmark: str
) -> None:
    """Confusion matrix, IoU, mIoU and accuracy equal what Pillow, pycocotools, torchmetrics say."""
    roots = {"voc2012": "voc-mini/VOC2012", "coco-object": "coco-mini", "lvis-v0.5": "lvis-mini"}
    root = real_data / roots[benchmark]
    if benchmark == "voc2012":
        pairs, classes = _voc(root), 20
    elif benchmark == "coco-object":
        annotations = root / "annotations/instances_val2017.json"
        pairs, classes = _coco(root / "val2017", annotations, elsewhere=0), 80
    else:
        pairs, classes = _coco(root / "images", root / "lvis_v0.5_val_6.json", -1), 1230
    model: dict[str, Any] = {}
    exec(compile(MODEL, "colours.py", "exec"), model)
    expected = _expected(pairs, classes, model)
    config = EvalConfig(benchmark=benchmark, root=str(root), model=f"{plugin}:build", limit=LIMIT)
    artifact = evaluate.run(config, ArtifactStore(tmp_path / "store"), device="cpu")

    with artifact.file("confusion.csv").open(newline="") as stream:
        found = np.array([[int(c) for c in row[1:]] for row in list(csv.reader(stream))[1:]])
    if benchmark == "lvis-v0.5":  # no background there: it is the column "(no class)"
        assert np.array_equal(found[:, :-1], expected[1:, 1:])
        assert np.array_equal(found[:, -1], expected[1:, 0])
        right, truth = np.diag(expected)[1:], expected[1:].sum(1)
        predicted = expected[1:, 1:].sum(0)
    else:
        assert np.array_equal(found[:, :-1], expected)
        assert not found[:, -1].any()
        right, truth, predicted = np.diag(expected), expected.sum(1), expected.sum(0)
    union = truth + predicted - right
    iou = 100 * right[union > 0] / union[union > 0]
    stats = json.loads(artifact.file("scores.json").read_text())
    assert stats["miou"] == pytest.approx(iou.mean(), abs=0.0051)
    assert stats["pixel_accuracy"] == pytest.approx(100 * right.sum() / truth.sum(), abs=0.0051)
    present = truth > 0
    recall = 100 * right[present] / truth[present]
    assert stats["mean_accuracy"] == pytest.approx(recall.mean(), abs=0.0051)
    weighted = (100 * right[present] / union[present] * truth[present]).sum() / truth.sum()
    assert stats["frequency_weighted_iou"] == pytest.approx(weighted, abs=0.0051)
    assert [v for v in stats["iou"].values() if v is not None] == pytest.approx(iou, abs=0.0051)
    assert stats["classes_scored"] == len(iou)
