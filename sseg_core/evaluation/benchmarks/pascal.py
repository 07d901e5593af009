"""Pascal VOC 2012 and Pascal Context, read as they are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.config import MAX_PIXELS
from sseg_core.data.images import ImageError, read_image
from sseg_core.errors import DataError, printable
from sseg_core.evaluation.examples import Benchmark, Example
from sseg_core.evaluation.pascal_detail import ANNOTATIONS, paint_segments, read_segments
from sseg_core.structures import IGNORE_LABEL

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
)  # fmt: skip
"""The 20 classes in the order of their label values 1 to 20, in GroupViT's words, single nouns
as captions use them: VOC's own names for three of them are diningtable, pottedplant, tvmonitor."""

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

BACKGROUND_THRESHOLD = 0.5
"""A pixel is an object where one class is likelier than all others together. The paper gives no
value (App. A.1 says only that there is a threshold): our choice, tuned on nothing."""

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


def voc2012(root: Path, split: str = "val", *, limit: int | None = None) -> Benchmark:
    """Return the segmentation part of Pascal VOC 2012.

    Args:
        root: the folder VOC2012, or VOCdevkit, or the folder that holds VOCdevkit.
        split: train, val or trainval.
        limit: take only the first images of the split.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    home = _home(root, "VOC2012", ["ImageSets/Segmentation"])
    if home is None:
        raise DataError(f"There is no VOC 2012 in {root}.", _VOC_LAYOUT)
    keys = _listed(home / "ImageSets" / "Segmentation", split, _VOC_LAYOUT)[:limit]
    truth = partial(_png, folder=home / "SegmentationClass", labels=len(VOC_CLASSES))
    _check_files(home, keys, "SegmentationClass", f"{split}.txt", _VOC_LAYOUT)
    return _benchmark("voc2012", VOC_CLASSES, home, keys, truth)


def context(root: Path, split: str = "val", *, limit: int | None = None) -> Benchmark:
    """Return Pascal Context with its 59 classes and background.

    Truth is read from PNG label maps, the usual 59-class layout, or else from Pascal in Detail's
    `trainval_merged.json`, where a pixel that none of the 59 covers is background; that takes a
    while, for the file is large.

    Args:
        root: the folder VOC2010, or VOCdevkit, or the folder that holds VOCdevkit.
        split: train or val.
        limit: take only the first images of the split.

    Raises:
        DataError: a folder, the split or a file of it is missing; the message says which.
    """
    lists = Path("ImageSets", "SegmentationContext")
    home = _home(root, "VOC2010", [str(lists), ANNOTATIONS])
    if home is None:
        raise DataError(f"There is no Pascal Context in {root}.", _CONTEXT_LAYOUT)
    if (home / lists).is_dir():
        keys = _listed(home / lists, split, _CONTEXT_LAYOUT)[:limit]
        _check_files(home, keys, "SegmentationClassContext", f"{split}.txt", _CONTEXT_LAYOUT)
        folder = home / "SegmentationClassContext"
        truth = partial(_png, folder=folder, labels=len(CONTEXT_CLASSES))
    else:
        segments = read_segments(home / ANNOTATIONS, split)
        keys = tuple(segments)[:limit]
        _check_files(home, keys, None, ANNOTATIONS, _CONTEXT_LAYOUT)
        truth = partial(paint_segments, segments={key: segments[key] for key in keys})
    return _benchmark("context", CONTEXT_CLASSES, home, keys, truth)


_Truth = Callable[[str, tuple[int, int]], npt.NDArray[np.uint8]]
"""A key and the height and width of its image in, the label map out."""


def _benchmark(
    name: str, classes: tuple[str, ...], home: Path, keys: tuple[str, ...], truth: _Truth
) -> Benchmark:
    def load(key: str) -> Example:
        image = read_image(home / "JPEGImages" / f"{key}.jpg", MAX_PIXELS)
        return Example(key, image, truth(key, (image.shape[0], image.shape[1])))

    return Benchmark(
        name=name,
        class_names=classes,
        has_background=True,
        keys=keys,
        load=load,
        background_threshold=BACKGROUND_THRESHOLD,
    )


def _home(root: Path, year: str, signs: Iterable[str]) -> Path | None:
    for home in (root, root / year, root / "VOCdevkit" / year):
        if any((home / sign).exists() for sign in signs):
            return home
    return None


def _listed(folder: Path, split: str, layout: str) -> tuple[str, ...]:
    present = sorted(path.stem for path in folder.glob("*.txt"))
    if split not in present:
        hint = f"It has: {', '.join(map(printable, present))}." if present else layout
        raise DataError(f"There is no split {printable(split)!r} in {folder}.", hint)
    path = folder / f"{split}.txt"
    keys = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if not keys:
        raise DataError(f"{path} names no image.", layout)
    return keys


def _check_files(
    home: Path, keys: Iterable[str], truth_folder: str | None, listed_in: str, layout: str
) -> None:
    for key in keys:
        if not _KEY.fullmatch(key):
            raise DataError(f"{listed_in} holds {printable(key)!r}, which names no image.")
        paths = [home / "JPEGImages" / f"{key}.jpg"]
        if truth_folder is not None:
            paths.append(home / truth_folder / f"{key}.png")
        for path in paths:
            if not path.is_file():
                raise DataError(f"{path} is missing, though {listed_in} lists it.", layout)


def _png(key: str, size: tuple[int, int], *, folder: Path, labels: int) -> npt.NDArray[np.uint8]:
    """Read a palette or grey PNG of label values up to `labels`, 255 where none counts."""
    path = folder / f"{key}.png"
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.size != (size[1], size[0]):
                raise ImageError("bad truth", "has not the size of its image", str(path))
            if opened.mode not in {"P", "L"}:
                raise ImageError("bad truth", "is no palette image", str(path))
            truth = np.array(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("bad truth", "is not a readable PNG", str(path)) from error
    if ((truth > labels) & (truth != IGNORE_LABEL)).any():
        problem = f"holds labels other than 0 to {labels} and {IGNORE_LABEL}"
        raise ImageError("bad truth", problem, str(path))
    return truth
