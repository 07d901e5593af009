"""Segments of Pascal in Detail, the form in which Pascal Context is published as one JSON file.

`trainval_merged.json` holds `images` (image_id, file_name, phase) and `annos_segmentation`
(image_id, category_id, segmentation), each segment a run-length code as COCO's.
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
        label: 1 to 59.
        size: height and width of the image.
        counts: its run-length code.
    """

    label: int
    size: tuple[int, int]
    counts: bytes


def read_segments(path: Path, split: str) -> dict[str, list[Segment]]:
    """Return the segments of the 59 classes in every image of a split, by key.

    Raises:
        DataError: the file is not of Pascal in Detail, or has no such split.
    """
    label_of = {category: label for label, category in enumerate(_CATEGORIES, start=1)}
    try:
        data = json.loads(path.read_bytes())
        phases = {str(image["phase"]) for image in data["images"]}
        names = {
            image["image_id"]: Path(image["file_name"]).stem
            for image in data["images"]
            if image["phase"] == split
        }
        segments: defaultdict[str, list[Segment]] = defaultdict(list)
        for entry in data["annos_segmentation"]:
            key, label = names.get(entry["image_id"]), label_of.get(entry["category_id"])
            if key is not None and label is not None:
                height, width = map(int, entry["segmentation"]["size"])
                counts = entry["segmentation"]["counts"].encode()
                segments[key].append(Segment(label, (height, width), counts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a readable annotation file of Pascal in Detail.",
            "Fetch it again, or give label maps in SegmentationClassContext.",
        ) from error
    if not names:
        raise DataError(
            f"There is no split {printable(split)!r} in {path}.",
            f"It has: {', '.join(map(printable, sorted(phases)))}.",
        )
    return {key: segments[key] for key in names.values()}


def paint_segments(
    key: str, size: tuple[int, int], *, segments: Mapping[str, Sequence[Segment]]
) -> npt.NDArray[np.uint8]:
    """Return the [H, W] label map of an image; later segments lie on top, elsewhere it is 0.

    Raises:
        ImageError: a segment is damaged or of another size.
    """
    truth = np.zeros(size, np.uint8)
    for segment in segments[key]:
        if segment.size != size:
            raise ImageError("bad truth", "has not the size of its image", f"The truth of {key}")
        try:
            truth[decode_runs(segment.counts, size)] = segment.label
        except ValueError as error:
            raise ImageError("bad truth", "has a damaged segment", f"The truth of {key}") from error
    return truth


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
