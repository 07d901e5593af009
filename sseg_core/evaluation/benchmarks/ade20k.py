"""ADE20K as the Scene Parsing Benchmark of 2016 publishes it: 150 classes, no background."""

from __future__ import annotations

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

_FOLDERS = {"train": "training", "val": "validation"}
_IMAGES = {"train": 20210, "val": 2000}
_LAYOUT = (
    "Expected in ADEChallengeData2016: images/validation/KEY.jpg and "
    "annotations/validation/KEY.png, the files of ADEChallengeData2016.zip."
)


def ade20k_classes() -> tuple[str, ...]:
    """Return the 150 classes in the order of their label values 1 to 150.

    Each is called by the first of its words in `objectInfo150.txt` of CSAILVision/sceneparsing,
    but for class 90, "television", which the field calls "television receiver" after the list of
    mmsegmentation.
    """
    return bundled_lines("ade20k")


def ade20k(request: BenchmarkRequest) -> Benchmark:
    """Return ADE20K.

    The value 0 of its label images, "other objects", does not count. The root is the folder
    ADEChallengeData2016 or the one that holds it; the splits are train and val.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    home = find_home(
        request.root,
        below=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
        signs=("annotations/validation", "annotations/training"),
        what="ADE20K",
        layout=_LAYOUT,
    )
    if request.split not in _FOLDERS:
        raise no_such_split(request.split, home, list(_FOLDERS), _LAYOUT)
    part = _FOLDERS[request.split]
    images = KeyedFiles(home / "images" / part, ".jpg")
    truths = KeyedFiles(home / "annotations" / part, ".png")
    keys = paired_keys(images, truths, _LAYOUT)
    classes = ade20k_classes()
    return paired_files(
        request,
        name="ade20k",
        class_names=classes,
        keys=keys,
        images=images,
        truths=truths,
        labels={0: VOID} | {index + 1: index for index in range(len(classes))},
        source=truth_source(
            f"label images in annotations/{part}",
            found=len(keys),
            published=_IMAGES[request.split],
        ),
    )
