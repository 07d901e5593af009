"""Pascal VOC 2012 and Pascal Context, read as they are published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.layouts import (
    KeyedFiles,
    find_home,
    read_split,
    require_files,
    truth_source,
)
from sseg_core.evaluation.benchmarks.paired_files import paired_files, read_photo
from sseg_core.evaluation.benchmarks.pascal_detail import ANNOTATIONS, read_segments
from sseg_core.evaluation.benchmarks.prepared import PreparedTruth, Truths
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
)  # fmt: skip
"""The 20 classes in the order of their label values 1 to 20, in GroupViT's words, single nouns
as captions use them."""

_OWN_NAMES = {"table": "diningtable", "plant": "pottedplant", "monitor": "tvmonitor"}
VOC_OWN_CLASSES = tuple(_OWN_NAMES.get(name, name) for name in VOC_CLASSES)
"""The same in VOC's own words."""

CONTEXT_CLASSES = (
    "airplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow",
    "cup", "curtain", "dog", "door", "fence", "floor", "flower", "food", "grass", "ground",
    "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person", "plate", "platform",
    "plant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa",
    "table", "track", "train", "tree", "truck", "monitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""The 59 frequent classes in the order of their label values 1 to 59; the paper counts 60, with
the background (App. A.1)."""

_VOC_IMAGES = {"train": 1464, "val": 1449, "trainval": 2913}
_CONTEXT_IMAGES = {"train": 4998, "val": 5105}  # of Pascal in Detail and of mmsegmentation

_RULE = "painted-1"  # later segments lie on top, what is none of the 59 is background
_KEY = re.compile(r"[A-Za-z0-9_]+")
_VOC_LAYOUT = (
    "Expected in VOC2012: ImageSets/Segmentation/val.txt, JPEGImages/KEY.jpg and "
    "SegmentationClass/KEY.png."
)
_CONTEXT_LAYOUT = (
    "Expected in VOC2010: JPEGImages/KEY.jpg, and either ImageSets/SegmentationContext/val.txt "
    "with SegmentationClassContext/KEY.png (values 0 to 59, as mmsegmentation writes them) or "
    f"{ANNOTATIONS} (Pascal in Detail)."
)


def voc2012(request: BenchmarkRequest) -> Benchmark:
    """Return the segmentation part of Pascal VOC 2012: 20 classes and background.

    The root is the folder VOC2012, or VOCdevkit, or the folder that holds VOCdevkit; the splits
    are train, val and trainval.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    home = find_home(
        request.root,
        below=("VOC2012", "VOCdevkit/VOC2012"),
        signs=("ImageSets/Segmentation",),
        what="VOC 2012",
        layout=_VOC_LAYOUT,
    )
    return _from_label_images(
        request,
        name="voc2012",
        classes=VOC_CLASSES,
        home=home,
        lists="Segmentation",
        folder="SegmentationClass",
        published=_VOC_IMAGES,
        layout=_VOC_LAYOUT,
    )


def context(request: BenchmarkRequest) -> Benchmark:
    """Return Pascal Context with its 59 classes and background.

    Truth is read from PNG label maps, the usual 59-class layout, or else from Pascal in Detail's
    `trainval_merged.json`, where a pixel that none of the 59 covers is background; that takes a
    while, for the file is large. The `source` of the benchmark says which it was, for the two do
    not agree on every pixel. The root is the folder VOC2010, or VOCdevkit, or the folder that
    holds VOCdevkit; the splits are train and val.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    home = find_home(
        request.root,
        below=("VOC2010", "VOCdevkit/VOC2010"),
        signs=("ImageSets/SegmentationContext", ANNOTATIONS),
        what="Pascal Context",
        layout=_CONTEXT_LAYOUT,
    )
    if (home / "ImageSets" / "SegmentationContext").is_dir():
        return _from_label_images(
            request,
            name="context",
            classes=CONTEXT_CLASSES,
            home=home,
            lists="SegmentationContext",
            folder="SegmentationClassContext",
            published=_CONTEXT_IMAGES,
            layout=_CONTEXT_LAYOUT,
        )
    truths = _segments(request, home)
    return Benchmark(
        name="context",
        class_names=CONTEXT_CLASSES,
        has_background=True,
        keys=tuple(truths.images),
        image=partial(read_photo, _images(home).path),
        truth=truths.load,
        split=request.split,
        source=truth_source(
            f"{ANNOTATIONS} of Pascal in Detail",
            found=truths.listed,
            published=_CONTEXT_IMAGES.get(request.split),
        ),
    )


def _segments(request: BenchmarkRequest, home: Path) -> Truths:
    """Return the truth of Pascal in Detail, from the store if it was read before."""
    path = home / ANNOTATIONS
    prepared = PreparedTruth(request, "context", path, _RULE)
    truths = prepared.find()
    if truths is None:
        request.progress.message(f"reading {printable(path, None)}")
        segments = read_segments(path, request.split)
        _check_keys(segments.keys, ANNOTATIONS, _CONTEXT_LAYOUT)
        # Before the work: half a data set is seen at once.
        _require_images(segments.keys, home, ANNOTATIONS, _CONTEXT_LAYOUT)
        images = {key: (f"{key}.jpg",) for key in segments.keys}
        truths = Truths(CONTEXT_CLASSES, images, len(images), segments.paint)
        truths = prepared.prepare(truths)
    _require_images(tuple(truths.images), home, ANNOTATIONS, _CONTEXT_LAYOUT)
    return truths


def _from_label_images(
    request: BenchmarkRequest,
    *,
    name: str,
    classes: tuple[str, ...],
    home: Path,
    lists: str,
    folder: str,
    published: Mapping[str, int],
    layout: str,
) -> Benchmark:
    """Return a benchmark with a list of keys for each split and label images of VOC's kind."""
    keys = read_split(home / "ImageSets" / lists, request.split, layout)
    listed_in = f"{request.split}.txt"
    _check_keys(keys, listed_in, layout)
    _require_images(keys, home, listed_in, layout)
    truths = KeyedFiles(home / folder, ".png")
    what = f"label images that {listed_in} names"
    require_files(keys, truths.keys(layout), truths, what=what, layout=layout)
    return paired_files(
        request,
        name=name,
        class_names=classes,
        keys=keys,
        images=_images(home),
        truths=truths,
        labels={0: BACKGROUND, 255: VOID} | {index + 1: index for index in range(len(classes))},
        source=truth_source(
            f"label images in {folder}", found=len(keys), published=published.get(request.split)
        ),
    )


def _images(home: Path) -> KeyedFiles:
    return KeyedFiles(home / "JPEGImages", ".jpg")


def _require_images(keys: Sequence[str], home: Path, listed_in: str, layout: str) -> None:
    images = _images(home)
    what = f"images that {listed_in} names"
    require_files(keys, images.keys(layout), images, what=what, layout=layout)


def _check_keys(keys: Iterable[str], listed_in: str, layout: str) -> None:
    """Refuse keys that could lead out of the folder: the lists come from strangers."""
    for key in keys:
        if not _KEY.fullmatch(key):
            raise DataError(f"{listed_in} holds {printable(key)!r}, which names no image.", layout)
