"""A user's own benchmark: a folder of images, one of masks, and a list of classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.ade20k import ade20k_classes
from sseg_core.evaluation.benchmarks.class_lists import (
    BACKGROUND_NAME,
    check_order,
    read_class_list,
)
from sseg_core.evaluation.benchmarks.coco import COCO_CLASSES
from sseg_core.evaluation.benchmarks.coco_stuff import coco_stuff_classes
from sseg_core.evaluation.benchmarks.imagenet_s import imagenet_s_classes
from sseg_core.evaluation.benchmarks.label_images import (
    LabelTable,
    label_table,
    read_label_image,
    refuse_pictures,
)
from sseg_core.evaluation.benchmarks.layouts import (
    KeyedFiles,
    names_in,
    no_such_split,
    read_split,
    require_files,
)
from sseg_core.evaluation.benchmarks.paired_files import read_photo
from sseg_core.evaluation.benchmarks.pascal import CONTEXT_CLASSES, VOC_CLASSES, VOC_OWN_CLASSES
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark, LabelMap

_CLASSES = "classes.txt"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_LAYOUT = (
    f"Expected in the folder: images/KEY.jpg (or png, webp), masks/KEY.png and {_CLASSES} with a "
    f"name per line, the first for the value 0 of the masks (call it {BACKGROUND_NAME} if it is "
    "none of the classes; 255 does not count); for several splits also SPLIT.txt with a KEY per "
    "line, or images/SPLIT/ and masks/SPLIT/."
)
_NO_PICTURES = (
    "Save the masks so that a pixel's value is the line of its class, counted from 0; in Python: "
    'PIL.Image.fromarray(labels.astype("uint8")).save("KEY.png").'
)


def folder(request: BenchmarkRequest) -> Benchmark:
    """Return the benchmark in `request.root`.

    The masks are palette or grey PNG files. Line i of the class list, counted from 0, names the
    value i; if the first is `background`, 0 is background, which is then no class. The value 255
    does not count; of 16-bit masks it is 65535. A split is the images that `SPLIT.txt` names, or
    those in `images/SPLIT`; a folder without either is one split, `val`.

    Raises:
        DataError: something of this is missing, empty or doubtful; the message says what.
    """
    root = request.root
    classes, has_background = _read_classes(root)
    images_in, masks_in, listed = _find_split(root, request.split)
    images = _images(images_in)
    keys = tuple(sorted(images)) if listed is None else listed
    if not keys:
        raise DataError(f"There is no image in {printable(images_in, None)}.", _LAYOUT)
    # What a list names is looked up among the files there are, so that no line becomes a path.
    what = f"images that {request.split}.txt names"
    require_files(keys, images, KeyedFiles(images_in, ".*"), what=what, layout=_LAYOUT)
    masks = KeyedFiles(masks_in, ".png")
    what = "masks of the images"
    require_files(keys, masks.keys(_LAYOUT), masks, what=what, layout=_LAYOUT)
    refuse_pictures(masks.path(keys[0]), _NO_PICTURES)
    tables = _tables(len(classes), has_background=has_background)
    return Benchmark(
        name=f"folder:{printable(root.resolve().name)}",
        class_names=classes,
        has_background=has_background,
        keys=keys[: request.limit],
        image=partial(read_photo, {key: images_in / images[key] for key in keys}.__getitem__),
        truth=partial(_read_mask, masks, tables),
        split=request.split,
        source=f"label images in {masks_in.relative_to(root).as_posix()}",
    )


def _read_mask(masks: KeyedFiles, tables: tuple[LabelTable, LabelTable], key: str) -> LabelMap:
    return read_label_image(masks.path(key), *tables)


def known_class_lists() -> Mapping[str, tuple[str, ...]]:
    """Return the classes of the benchmarks whose numbers a folder's masks may have, by name."""
    imagenet_s = {f"imagenet-s-{n}": tuple(imagenet_s_classes(n).values()) for n in (50, 300, 919)}
    return {
        "voc2012": VOC_CLASSES,
        "Pascal VOC": VOC_OWN_CLASSES,
        "context": CONTEXT_CLASSES,
        "ade20k": ade20k_classes(),
        "coco-stuff": coco_stuff_classes(),
        "coco-object": COCO_CLASSES,
    } | imagenet_s


def _read_classes(root: Path) -> tuple[tuple[str, ...], bool]:
    if not root.is_dir():
        raise DataError(f"There is no folder {printable(root, None)}.", _LAYOUT)
    path = root / _CLASSES
    names = read_class_list(path, _LAYOUT)
    has_background = names[0].casefold() == BACKGROUND_NAME
    classes = names[1:] if has_background else names
    if not classes:
        raise DataError(f"The class list {printable(path, None)} has only a background.", _LAYOUT)
    if BACKGROUND_NAME in map(str.casefold, classes):
        raise DataError(
            f"The class list {printable(path, None)} has {BACKGROUND_NAME!r} in another line than "
            "the first.",
            "Background is the value 0; give the masks that value for it, and put it first.",
        )
    check_order(classes, known_class_lists(), path)
    return classes, has_background


def _find_split(root: Path, split: str) -> tuple[Path, Path, tuple[str, ...] | None]:
    """Return the folders of the images and masks of a split, and its keys if a list has them."""
    images, masks = root / "images", root / "masks"
    subfolders = {name for name in names_in(images, _LAYOUT) if (images / name).is_dir()}
    if split in subfolders:
        return images / split, masks / split, None
    texts = KeyedFiles(root, ".txt").keys(_LAYOUT) - {PurePath(_CLASSES).stem}
    if split in texts:
        return images, masks, tuple(dict.fromkeys(map(_key, read_split(root, split, _LAYOUT))))
    keys = _images(images)
    lists = {text for text in texts if _first_key(root / f"{text}.txt") in keys}
    if split == "val" and not subfolders and not lists:
        return images, masks, None
    raise no_such_split(split, root, sorted(subfolders | lists) or ["val"], _LAYOUT)


def _first_key(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return _key(file.readline(1000).strip())


def _key(line: str) -> str:
    """Return the key in a line of a list, in which some write the name of the image file."""
    path = PurePath(line)
    return path.stem if path.suffix.lower() in _IMAGE_SUFFIXES else line


def _images(folder: Path) -> dict[str, str]:
    """Return the names of the images in a folder by key."""
    images: dict[str, str] = {}
    for name in sorted(names_in(folder, _LAYOUT)):
        key, suffix = PurePath(name).stem, PurePath(name).suffix.lower()
        if suffix not in _IMAGE_SUFFIXES:
            continue
        if not name.isprintable():
            raise DataError(
                f"{printable(folder, None)} has an image called {printable(name)!r}, with "
                "characters that cannot be shown.",
                "Rename it and its mask.",
            )
        if key in images:
            raise DataError(
                f"{printable(folder, None)} has both {printable(images[key])} and "
                f"{printable(name)}, for one mask.",
                "Keep one of them, or rename it with a mask of its own.",
            )
        images[key] = name
    return images


def _tables(classes: int, *, has_background: bool) -> tuple[LabelTable, LabelTable]:
    """Return the tables of masks of 8 and of 16 bits."""
    first = 1 if has_background else 0
    labels = {0: BACKGROUND} if has_background else {}
    labels |= {index + first: index for index in range(classes)}
    return label_table(labels | {255: VOID}), label_table(labels | {65535: VOID})
