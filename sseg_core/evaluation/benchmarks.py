"""Images with true label maps, read as they are published, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.config import MAX_PIXELS, EvalConfig, ToyWorldConfig
from sseg_core.data.images import ImageError, RGBImage, read_image
from sseg_core.data.toyworld import CLASSES, OBJECTS, render_scene
from sseg_core.errors import ConfigError, DataError, did_you_mean, printable
from sseg_core.structures import IGNORE_LABEL

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "monitor",
)  # fmt: skip
"""The 20 classes in the order of their label values 1 to 20, in GroupViT's words, single nouns
as captions use them: VOC's own names for three of them are diningtable, pottedplant, tvmonitor."""

VOC_THRESHOLD = 0.5
"""A pixel is an object where one class is likelier than all others together. The paper gives no
value (App. A.1 says only that there is a threshold): our choice, tuned on nothing."""

TOYWORLD_SCENES = 200
BENCHMARKS = ("toyworld", "voc2012")

_VOC_SPLITS = ("train", "val", "trainval")
_VOC_KEY = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a benchmark with its truth.

    Attributes:
        key: unique in the benchmark.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] uint8 index into the benchmark's labels, 255 where no label counts.
    """

    key: str
    image: RGBImage
    truth: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A set of examples and what their labels mean.

    Attributes:
        name: as in `sseg eval --benchmark`.
        class_names: the classes a model is asked for, background not among them.
        has_background: truth label 0 is background, and class i has the label i + 1; without
            background class i has the label i.
        keys: of the examples, in order.
        load: returns the example of a key; raises ImageError if its files are damaged.
        background_threshold: lower probabilities are background, unless the user says otherwise.
        subsets: groups of classes that get a mean IoU of their own, by name.
    """

    name: str
    class_names: tuple[str, ...]
    has_background: bool
    keys: tuple[str, ...]
    load: Callable[[str], Example]
    background_threshold: float = 0.0
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Example]:
        return map(self.load, self.keys)


def open_benchmark(config: EvalConfig) -> Benchmark:
    """Return the benchmark that `config` names, cut to its limit.

    Raises:
        ConfigError: no such benchmark, or no root for one that needs it.
        DataError: its files are not where they should be.
    """
    if config.benchmark == "toyworld":
        count = min(TOYWORLD_SCENES, config.limit or TOYWORLD_SCENES)
        size = ToyWorldConfig().image_size
        return toyworld(seed=config.seed, size=size, count=count, split=config.split)
    if config.benchmark == "voc2012":
        if config.root is None:
            raise ConfigError("The benchmark voc2012 needs its folder.", "Give it with --root DIR.")
        return voc2012(Path(config.root), config.split, limit=config.limit)
    raise ConfigError(
        f"There is no benchmark {config.benchmark!r}.", did_you_mean(config.benchmark, BENCHMARKS)
    )


def toyworld(
    *, seed: int, size: int, count: int = TOYWORLD_SCENES, split: str = "val"
) -> Benchmark:
    """Return scenes of the toy world; those of the split `val` are never trained on.

    Every pixel has a class. The subset `objects` leaves out the grounds.

    Raises:
        DataError: no such split.
    """
    if split not in {"train", "val"}:
        raise DataError(f"The toy world has no split {split!r}.", did_you_mean(split, ("val",)))
    return Benchmark(
        name="toyworld",
        class_names=CLASSES,
        has_background=False,
        keys=tuple(f"{index:06d}" for index in range(count)),
        load=partial(_load_scene, seed=seed, size=size, train=split == "train"),
        subsets={"objects": OBJECTS},
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
    home = _voc_home(root)
    list_file = home / "ImageSets" / "Segmentation" / f"{split}.txt"
    if split not in _VOC_SPLITS or not list_file.is_file():
        present = [name for name in _VOC_SPLITS if list_file.with_stem(name).is_file()]
        raise DataError(
            f"There is no split {split!r} in {list_file.parent}.",
            f"It has: {', '.join(present)}." if present else _VOC_LAYOUT,
        )
    keys = tuple(list_file.read_text(encoding="utf-8", errors="replace").split())[:limit]
    if not keys:
        raise DataError(f"{list_file} names no image.", _VOC_LAYOUT)
    for key in keys:
        if not _VOC_KEY.fullmatch(key):
            raise DataError(f"{list_file} holds {printable(key)!r}, which names no image.")
        for path in _voc_files(home, key):
            if not path.is_file():
                raise DataError(f"{path} is missing, though {split}.txt lists it.", _VOC_LAYOUT)
    return Benchmark(
        name="voc2012",
        class_names=VOC_CLASSES,
        has_background=True,
        keys=keys,
        load=partial(_load_voc, home=home),
        background_threshold=VOC_THRESHOLD,
    )


def _load_scene(key: str, *, seed: int, size: int, train: bool) -> Example:
    scene = render_scene(seed, int(key), size, "train" if train else "val")
    return Example(key, scene.image, scene.label_map)


_VOC_LAYOUT = (
    "Expected in VOC2012: ImageSets/Segmentation/val.txt, JPEGImages/KEY.jpg and "
    "SegmentationClass/KEY.png."
)


def _voc_home(root: Path) -> Path:
    for home in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (home / "ImageSets" / "Segmentation").is_dir():
            return home
    raise DataError(f"There is no VOC 2012 in {root}.", _VOC_LAYOUT)


def _voc_files(home: Path, key: str) -> tuple[Path, Path]:
    return home / "JPEGImages" / f"{key}.jpg", home / "SegmentationClass" / f"{key}.png"


def _load_voc(key: str, *, home: Path) -> Example:
    image_path, truth_path = _voc_files(home, key)
    image = read_image(image_path, MAX_PIXELS)
    try:
        with Image.open(truth_path, formats=["PNG"]) as opened:
            if opened.size != (image.shape[1], image.shape[0]):
                raise ImageError("bad truth", "has not the size of its image", str(truth_path))
            if opened.mode not in {"P", "L"}:
                raise ImageError("bad truth", "is no palette image", str(truth_path))
            truth = np.array(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("bad truth", "is not a readable PNG", str(truth_path)) from error
    if ((truth > len(VOC_CLASSES)) & (truth != IGNORE_LABEL)).any():
        raise ImageError("bad truth", "holds labels other than 0 to 20 and 255", str(truth_path))
    return Example(key, image, truth)
