"""ImageNet-S: photos of ImageNet with masks of their objects, of 50, 300 or 919 classes."""

from __future__ import annotations

import re
from functools import partial

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.class_lists import bundled_lines
from sseg_core.evaluation.benchmarks.label_images import read_rgb_labels
from sseg_core.evaluation.benchmarks.layouts import (
    KeyedFiles,
    find_home,
    names_in,
    no_such_split,
    paired_keys,
    truth_source,
)
from sseg_core.evaluation.benchmarks.paired_files import paired_files
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark

_FOLDERS = {"val": "validation", "train-semi": "train-semi"}
_IMAGES = {
    ("val", 50): 752, ("val", 300): 4097, ("val", 919): 12419,
    ("train-semi", 50): 500, ("train-semi", 300): 3000, ("train-semi", 919): 9190,
}  # fmt: skip
_SETS = (50, 300, 919)
_IGNORED = 1000
_WNID = re.compile(r"n\d{8}")


def imagenet_s_classes(count: int) -> dict[str, str]:
    """Return the names of the 50, 300 or 919 classes by WordNet id, in the order of their labels.

    That order is the one of the sorted ids (LUSSeg/ImageNet-S, README). The names are those that
    CLIP's authors gave the classes of ImageNet: in LUSSeg's own list "crane" is both a bird and a
    machine, and "cardigan" a dog and a jacket, so that no model could tell them apart.

    Args:
        count: 50, 300 or 919, of which each is part of the next.
    """
    classes: dict[str, str] = {}
    for line in bundled_lines("imagenet_s"):
        wnid, smallest_set, name = line.split(" ", 2)
        if int(smallest_set) <= count:
            classes[wnid] = name
    return classes


def imagenet_s(request: BenchmarkRequest, *, classes: int) -> Benchmark:
    """Return ImageNet-S.

    Of the RGB label images, R + 256 G is the label: 0 is other than the classes and scored as
    background, 1000 does not count (LUSSeg/ImageNet-S, README and evaluation code). Images and
    truth keep their full size, as there; that code lets a model see large images at 1000 pixels
    to save memory, but scores at full size. The root is the folder ImageNetS50 (300, 919) or the
    one that holds it; the splits are val and train-semi: the truth of the test images is not
    public.

    Args:
        request: where the files are.
        classes: 50, 300 or 919.

    Raises:
        DataError: a folder, the split or a file of it is missing, or it is another of the three
            sets; the message says which.
    """
    folder = f"ImageNetS{classes}"
    layout = (
        f"Expected in {folder}: validation/WNID/KEY.JPEG and validation-segmentation/WNID/KEY.png, "
        "as data_preparation.sh of LUSSeg/ImageNet-S writes them."
    )
    home = find_home(
        request.root,
        below=(folder,),
        signs=[f"{part}-segmentation" for part in _FOLDERS.values()],
        what=f"ImageNet-S with {classes} classes",
        layout=layout,
    )
    if request.split not in _FOLDERS:
        raise no_such_split(request.split, home, list(_FOLDERS), layout)
    part = _FOLDERS[request.split]
    names = imagenet_s_classes(classes)
    truths_in = home / f"{part}-segmentation"
    wnids = tuple(sorted(filter(_WNID.fullmatch, names_in(truths_in, layout))))
    actual = next((n for n in _SETS if set(wnids) <= set(imagenet_s_classes(n))), None)
    if wnids and actual != classes:
        raise DataError(
            f"{printable(truths_in, None)} has the classes of "
            + (f"imagenet-s-{actual}" if actual else "no set of ImageNet-S")
            + f", not of imagenet-s-{classes}.",
            "The sets number the classes differently: name the one that the folder is of.",
        )
    images = KeyedFiles(home / part, ".JPEG", wnids)
    truths = KeyedFiles(truths_in, ".png", wnids)
    keys = paired_keys(images, truths, layout)
    return paired_files(
        request,
        name=f"imagenet-s-{classes}",
        class_names=list(names.values()),
        keys=keys,
        images=images,
        truths=truths,
        labels={0: BACKGROUND, _IGNORED: VOID} | {i + 1: i for i in range(len(names))},
        read=read_rgb_labels,
        source=truth_source(
            f"label images in {truths_in.name}",
            found=len(keys),
            published=_IMAGES[request.split, classes],
        ),
    )


imagenet_s_50 = partial(imagenet_s, classes=50)
imagenet_s_300 = partial(imagenet_s, classes=300)
imagenet_s_919 = partial(imagenet_s, classes=919)
