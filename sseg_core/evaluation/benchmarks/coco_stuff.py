"""COCO-Stuff: the 164k images of COCO 2017 with 80 things and 91 kinds of stuff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.class_lists import bundled_lines
from sseg_core.evaluation.benchmarks.layouts import (
    KeyedFiles,
    find_home,
    no_such_split,
    paired_keys,
    truth_source,
)
from sseg_core.evaluation.benchmarks.paired_files import paired_files
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import VOID, Benchmark

_IMAGES = {"train": 118287, "val": 5000}
_IMAGE_FOLDERS = ("images", ".")
# The archive of label maps holds folders of the same names as the images', so that people unpack
# it beside them under one of these names, or over them.
_TRUTH_FOLDERS = ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations", ".")
_KEY = r"\d+"  # conversions put files of other names beside these
_TRAIN_IDS = "_labelTrainIds.png"
_LAYOUT = (
    "Expected: val2017/KEY.jpg or images/val2017/KEY.jpg, and the label maps of "
    "stuffthingmaps_trainval2017.zip as stuffthingmaps_trainval2017/val2017/KEY.png, or as "
    f"mmsegmentation converts them, annotations/val2017/KEY{_TRAIN_IDS}."
)

# Of 182 labels, which the files count from 0, eleven things were never annotated: street sign,
# hat, shoe, eye glasses, plate, mirror, window, desk, door, blender and hair brush.
_NEVER_ANNOTATED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_VALUES = tuple(value for value in range(182) if value not in _NEVER_ANNOTATED)


def coco_stuff_classes() -> tuple[str, ...]:
    """Return the 171 classes in the order of their labels.

    The names are those of `labels.txt` in nightrome/cocostuff.
    """
    return bundled_lines("coco_stuff")


def coco_stuff(request: BenchmarkRequest) -> Benchmark:
    """Return COCO-Stuff with 171 classes; every pixel but the void has one.

    The root is the folder with the images of COCO and the label maps, in one of the usual
    layouts; the splits are train and val. A label map holds 0 to 181 and 255 for void, or 0 to
    170 and 255 after mmsegmentation's conversion; the `source` of the benchmark says which.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    root, split = request.root, request.split
    if split not in _IMAGES:
        raise no_such_split(split, root, list(_IMAGES), _LAYOUT)
    year = f"{split}2017"
    home = find_home(
        root,
        below=("coco", "coco_stuff164k"),
        signs=[f"{folder}/{year}" for folder in _IMAGE_FOLDERS],
        what=f"COCO-Stuff with its {year}",
        layout=_LAYOUT,
    )
    folder = next(home / name / year for name in _IMAGE_FOLDERS if (home / name / year).is_dir())
    images = KeyedFiles(folder, ".jpg", names=_KEY)
    truths, values = _truths(home, year)
    keys = paired_keys(images, truths, _LAYOUT)
    kind = "train ids" if truths.suffix == _TRAIN_IDS else "original ids"
    where = truths.folder.relative_to(home).as_posix()
    return paired_files(
        request,
        name="coco-stuff",
        class_names=coco_stuff_classes(),
        keys=keys,
        images=images,
        truths=truths,
        labels={255: VOID} | {value: index for index, value in enumerate(values)},
        source=truth_source(
            f"label images in {where}, {kind}", found=len(keys), published=_IMAGES[split]
        ),
    )


def _truths(home: Path, year: str) -> tuple[KeyedFiles, Sequence[int]]:
    """Return the label images, mmsegmentation's where there are both, and the classes' values."""
    for name in _TRUTH_FOLDERS:
        folder = home / name / year
        if not folder.is_dir():
            continue
        train_ids = KeyedFiles(folder, _TRAIN_IDS, names=_KEY)
        if train_ids.keys(_LAYOUT):
            return train_ids, range(len(_VALUES))
        original = KeyedFiles(folder, ".png", names=_KEY)
        if original.keys(_LAYOUT):
            return original, _VALUES
    raise DataError(
        f"There are no label maps of COCO-Stuff's {year} in {printable(home, None)}.", _LAYOUT
    )
