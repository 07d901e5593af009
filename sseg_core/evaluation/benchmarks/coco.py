"""COCO-Object: the 80 classes of COCO and background."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.instance_file import Photo
from sseg_core.evaluation.benchmarks.instances import InstanceSet, open_instances
from sseg_core.evaluation.benchmarks.layouts import KeyedFiles, paired_keys, truth_source
from sseg_core.evaluation.benchmarks.paired_files import paired_files
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, Benchmark

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes in the order of their category numbers, which run from 1 to 90 with gaps."""

_IMAGES = {"train": 118287, "val": 5000}
_LAYOUT = (
    "Expected in coco: annotations/instances_val2017.json and val2017/*.jpg (or "
    "images/val2017/*.jpg), or COCO-Stuff as GroupViT converts it: "
    "annotations/val2017/KEY_instanceTrainIds.png and images/val2017/KEY.jpg; for the split train "
    "the same with train2017."
)
_CONVERTED = "_instanceTrainIds.png"


def coco_object(request: BenchmarkRequest) -> Benchmark:
    """Return COCO-Object: COCO 2017 with all instances of a class merged (S-Seg App. A.1).

    The root is the folder that holds `annotations`, or the folder coco, or the one that holds it.
    Every photo of the split is in it, those without an instance too.

    A crowd shows its class; outside all instances is background. Where instances of two classes
    overlap, the smaller one lies on top, and a crowd below all: our choice, for the paper says only
    that it combines the instances of a class.

    GroupViT and those that follow it do not read the instances. They convert the label maps of
    COCO-Stuff 164k, whose things come from them: things keep their label, all else becomes
    background, unlabelled pixels too. Where the annotation file is absent, the files of that
    conversion are read, `annotations/val2017/KEY_instanceTrainIds.png` with 0 for background. The
    two truths may differ where instances overlap and in crowds; `source` says which was read.

    Raises:
        DataError: no such split, a file that is missing or unusable, or other classes than COCO's.
        ArtifactError: the store cannot be written.
    """
    if request.split in _IMAGES and _annotations(request.root, request.split) is None:
        for home in (request.root, request.root / "coco_stuff164k"):
            truths = KeyedFiles(home / "annotations" / f"{request.split}2017", _CONVERTED)
            if truths.folder.is_dir() and truths.keys(_LAYOUT):
                return _converted(home, truths, request)
    return open_instances(_COCO, request)


def _converted(home: Path, truths: KeyedFiles, request: BenchmarkRequest) -> Benchmark:
    """Return the benchmark from the label maps that GroupViT's conversion writes."""
    images = KeyedFiles(home / "images" / f"{request.split}2017", ".jpg")
    keys = paired_keys(images, truths, _LAYOUT)
    return paired_files(
        request,
        name=_COCO.name,
        class_names=COCO_CLASSES,
        keys=keys,
        images=images,
        truths=truths,
        labels={0: BACKGROUND} | {i + 1: i for i in range(len(COCO_CLASSES))},
        source=truth_source(
            f"label maps of COCO-Stuff, converted to {_CONVERTED[1:]}",
            found=len(keys),
            published=_IMAGES[request.split],
        ),
    )


def _annotations(root: Path, split: str) -> Path | None:
    name = f"annotations/instances_{split}2017.json"
    return next((home / name for home in (root, root / "coco") if (home / name).is_file()), None)


def _class_names(categories: Mapping[int, str], path: Path) -> tuple[str, ...]:
    pairs = zip_longest(COCO_CLASSES, categories.values())
    for number, (expected, found) in enumerate(pairs, start=1):
        if expected != found:
            has = "ends" if found is None else f"has {printable(found)!r}"
            instead = "no more classes" if expected is None else repr(expected)
            raise DataError(
                f"{printable(path, None)} {has} where COCO has {instead} (class {number}).",
                "The order of the classes is that of COCO's category numbers; fetch "
                "annotations_trainval2017.zip again.",
            )
    return COCO_CLASSES


def _places(photo: Photo, split: str) -> tuple[str, ...]:
    return (f"{split}2017/{photo.names[-1]}", f"images/{split}2017/{photo.names[-1]}")


_COCO = InstanceSet(
    name="coco-object",
    title="COCO",
    annotations=_annotations,
    layout=_LAYOUT,
    class_names=_class_names,
    places=_places,
    elsewhere=BACKGROUND,
    published=_IMAGES,
)
