"""LVIS v0.5 and v1: more than a thousand classes, annotated on photos of COCO."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.instance_file import Photo
from sseg_core.evaluation.benchmarks.instances import InstanceSet, open_instances
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import VOID, Benchmark

_CLASSES = {"v0.5": 1230, "v1": 1203}
_IMAGES = {"v0.5": {"val": 5000}, "v1": {"train": 100170, "val": 19809}}


def lvis_v1(request: BenchmarkRequest) -> Benchmark:
    """Return LVIS v1 with its 1203 classes.

    The root is the folder with the annotation file, or one above it. The photos are COCO's, those
    of the split val both from val2017 and from train2017.

    LVIS is not annotated exhaustively: in a photo most classes were never looked for, so nobody
    knows what a pixel outside all instances shows, and it does not count (`VOID`); there is no
    background. Overlaps are as in `coco_object`: a button lies on its shirt. Class names are those
    of the file with blanks for underscores; what stands in brackets tells classes apart ("bow
    (weapon)") and stays, as in the label lists that others use.

    S-Seg's Table 9 says "LVIS (1103 classes)" and neither gives the version nor the rule for
    that number: v1 has 1203, v0.5 has 1230. We ask for all of them and, as everywhere, take the
    mean over those that occur in truth or prediction, so a figure of ours beside Table 9 is no
    exact comparison.

    Raises:
        DataError: no such split, a file that is missing or unusable, or another number of classes.
        ArtifactError: the store cannot be written.
    """
    return open_instances(_lvis("v1"), request)


def lvis_v05(request: BenchmarkRequest) -> Benchmark:
    """Return LVIS v0.5 with its 1230 classes; see `lvis_v1`."""
    return open_instances(_lvis("v0.5"), request)


def _lvis(version: str) -> InstanceSet:
    return InstanceSet(
        name=f"lvis-{version}",
        title=f"LVIS {version}",
        annotations=partial(_annotations, version=version),
        layout=(
            f"Expected: lvis_{version}_val.json, or that in annotations or lvis, and COCO's photos "
            "in val2017 and train2017, or those in images or coco."
        ),
        class_names=partial(_class_names, version=version),
        places=_places,
        elsewhere=VOID,
        published=_IMAGES[version],
    )


def _annotations(root: Path, split: str, *, version: str) -> Path | None:
    """Return the file of the split, or the one that holds a part of it (`lvis_v1_val_6.json`)."""
    folders = [root / sub for sub in ("", "annotations", "lvis", "lvis/annotations")]
    for pattern in (f"lvis_{version}_{split}.json", f"lvis_{version}_{split}_*.json"):
        for folder in folders:
            found = sorted(folder.glob(pattern))
            if len(found) > 1:
                raise DataError(
                    f"{printable(folder, None)} holds {len(found)} parts of LVIS {version} "
                    f"{split}: {found[0].name}, {found[1].name}.",
                    "Leave the one that is meant, or the whole.",
                )
            if found:
                return found[0]
    return None


def _class_names(categories: Mapping[int, str], path: Path, *, version: str) -> tuple[str, ...]:
    expected = _CLASSES[version]
    if tuple(categories) != tuple(range(1, expected + 1)):
        raise DataError(
            f"{printable(path, None)} has {len(categories)} classes, but LVIS {version} has "
            f"{expected}, numbered from 1.",
            "LVIS v1 has 1203 classes and v0.5 has 1230: choose the benchmark that fits the file.",
        )
    return tuple(name.replace("_", " ") for name in categories.values())


def _places(photo: Photo, split: str) -> tuple[str, ...]:
    folder = photo.folder or f"{split}2017"
    in_coco = (f"{folder}/{photo.names[0]}", f"images/{folder}/{photo.names[0]}")
    return (*in_coco, *(f"images/{name}" for name in photo.names))
