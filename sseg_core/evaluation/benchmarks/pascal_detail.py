"""Segments of Pascal in Detail, the form in which Pascal Context is published as one JSON file.

`trainval_merged.json` holds `images` (image_id, file_name, phase, height, width) and
`annos_segmentation` (image_id, category_id, segmentation), each segment a run-length code as
COCO's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import ImageError
from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.layouts import no_such_split
from sseg_core.evaluation.examples import BACKGROUND, LabelMap
from sseg_core.structures import MAX_PIXELS

ANNOTATIONS = "trainval_merged.json"

# Of Context's 459 categories, whose numbers follow the alphabet as the 59 do.
_CATEGORIES = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """A part of an image.

    Attributes:
        label: class index, 0 to 58.
        size: height and width of the image.
        counts: its run-length code.
    """

    label: int
    size: tuple[int, int]
    counts: bytes


@dataclass(frozen=True, eq=False)
class Segments:
    """The truth of a split.

    Attributes:
        sizes: height and width of every image, by key.
        segments: of the 59 classes, by key, in the order of the file.
    """

    sizes: Mapping[str, tuple[int, int]]
    segments: Mapping[str, Sequence[Segment]]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the images, in the order of the file."""
        return tuple(self.sizes)

    def paint(self, key: str) -> LabelMap:
        """Return the [H, W] label map of an image; later segments lie on top.

        Raises:
            ImageError: a segment is damaged or of another size.
        """
        size = self.sizes[key]
        if size[0] * size[1] > MAX_PIXELS:
            raise _bad_truth(key, f"has more than {MAX_PIXELS:,} pixels")
        truth = np.full(size, BACKGROUND, np.int16)
        for segment in self.segments.get(key, ()):
            if segment.size != size:
                raise _bad_truth(key, "has a segment of another size than its image")
            try:
                truth[decode_runs(segment.counts, size)] = segment.label
            except ValueError as error:
                raise _bad_truth(key, "has a damaged segment") from error
        return truth


def read_segments(path: Path, split: str) -> Segments:
    """Return the segments of the 59 classes in every image of a split.

    Raises:
        DataError: the file is not of Pascal in Detail, or has no such split.
    """
    index_of = {category: index for index, category in enumerate(_CATEGORIES)}
    sizes: dict[str, tuple[int, int]] = {}
    keys: dict[object, str] = {}
    segments: defaultdict[str, list[Segment]] = defaultdict(list)
    try:
        data = json.loads(path.read_bytes())
        phases = {str(image["phase"]) for image in data["images"]}
        for image in data["images"]:
            if image["phase"] == split:
                key = keys[image["image_id"]] = Path(image["file_name"]).stem
                sizes[key] = (_side(image["height"]), _side(image["width"]))
        for entry in data["annos_segmentation"]:
            found, index = keys.get(entry["image_id"]), index_of.get(entry["category_id"])
            if found is not None and index is not None:
                height, width = map(_side, entry["segmentation"]["size"])
                counts = entry["segmentation"]["counts"].encode()
                segments[found].append(Segment(index, (height, width), counts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{printable(path, None)} is not a readable annotation file of Pascal in Detail.",
            "Fetch it again, or give label maps in SegmentationClassContext.",
        ) from error
    if not sizes:
        raise no_such_split(split, path, sorted(phases), "It names no image at all.")
    return Segments(sizes, segments)


def decode_runs(counts: bytes, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the [H, W] mask of a run-length code in COCO's compressed form.

    Runs of pixels outside and inside, column by column, take turns. A number is written five bits
    a character, the lowest first, the sixth bit saying that more follow; from the fourth on it is
    the difference to the one before the last. (The library for it writes past the end of its
    memory where a code is damaged.)

    Raises:
        ValueError: the code is damaged, or is not of this size.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError("not a character of a run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift or min(runs, default=-1) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError("the runs do not add up to the image")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size, order="F")


def _side(value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"not the side of an image: {value!r}")
    return value


def _bad_truth(key: str, problem: str) -> ImageError:
    return ImageError("bad truth", problem, f"The truth of {key}")
