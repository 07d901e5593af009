"""Instances as COCO and LVIS publish them, merged by class into one label map.

pycocotools rasterises the outlines, for a pixel at an outline is in or out by its rule alone. It
trusts what it is given: a damaged run-length code makes it write past the end of its memory, and a
far corner makes it ask for all there is. So runs are decoded here, and outlines checked first.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sseg_core.data.images import ImageError
from sseg_core.evaluation.benchmarks.pascal_detail import decode_runs
from sseg_core.evaluation.examples import LabelMap
from sseg_core.structures import MAX_PIXELS


@dataclass(frozen=True)
class Runs:
    """A mask as the lengths of its runs, column by column, outside and inside taking turns.

    Attributes:
        size: height and width.
        counts: the lengths, or COCO's compressed form of them.
    """

    size: tuple[int, int]
    counts: tuple[int, ...] | bytes


Outlines = tuple["array[float]", ...]
"""Polygons, each x and y in turn, in pixels."""

_coco: Any = coco_mask  # only a part of it has types


@dataclass(frozen=True, slots=True)
class Instance:
    """One object, or a crowd of one class.

    Attributes:
        category: its number in the file.
        crowd: many objects that nobody told apart.
        shape: None where the file holds something else.
    """

    category: int
    crowd: bool
    shape: Outlines | Runs | None


def parse_shape(segmentation: Any) -> Outlines | Runs | None:
    """Return a `segmentation` of COCO's format as its types; None if it is neither form."""
    try:
        if isinstance(segmentation, list):
            return tuple(array("d", polygon) for polygon in segmentation)
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return Runs((height, width), counts.encode())
        return Runs((height, width), tuple(map(int, counts)))
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


def merge_instances(
    key: str,
    size: tuple[int, int],
    instances: Sequence[Instance],
    label_of: Mapping[int, int],
    elsewhere: int,
) -> LabelMap:
    """Return the [H, W] label map of an image.

    Where instances overlap the smaller lies on top, as a cup does on a table, and a crowd below
    all; of equal ones the later.

    Args:
        key: of the image.
        size: its height and width.
        instances: in it.
        label_of: the class index of each category.
        elsewhere: the label outside all instances.

    Raises:
        ImageError: an instance is damaged, or the image is too large.
    """
    if size[0] * size[1] > MAX_PIXELS:
        problem = f"is of {size[0] * size[1]:,} pixels, more than {MAX_PIXELS:,}"
        raise ImageError("bad truth", problem, f"The truth of {key}")
    codes = []
    for number, instance in enumerate(instances, start=1):
        try:
            code = _encode(instance.shape, size)
        except ValueError as error:
            problem = f"has a damaged instance (number {number}): {error}"
            raise ImageError("bad truth", problem, f"The truth of {key}") from error
        codes.append((not instance.crowd, -int(_coco.area(code)), instance.category, code))
    label_map = np.full(size, elsewhere, np.int16)
    for _, _, category, code in sorted(codes, key=lambda entry: entry[:2]):
        label_map[_coco.decode(code).astype(bool)] = label_of[category]
    return label_map


def _encode(shape: Outlines | Runs | None, size: tuple[int, int]) -> dict[str, Any]:
    """Return the run-length code of a shape as pycocotools has it.

    Raises:
        ValueError: the shape is damaged; the message says how.
    """
    if isinstance(shape, Runs):
        mask = _decode(shape, size)
        code: dict[str, Any] = _coco.encode(np.asfortranarray(mask, np.uint8))
        return code
    if not shape:
        raise ValueError("it is neither polygons nor runs")
    for outline in shape:
        _check_outline(np.frombuffer(outline), size)
    merged: dict[str, Any] = _coco.merge(_coco.frPyObjects(list(shape), *size))
    return merged


def _decode(runs: Runs, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    if runs.size != size:
        raise ValueError("it has not the size of the image")
    if isinstance(runs.counts, bytes):
        return decode_runs(runs.counts, size)
    if min(runs.counts, default=-1) < 0 or sum(runs.counts) != size[0] * size[1]:
        raise ValueError("the runs do not add up to the image")
    inside = np.arange(len(runs.counts)) % 2 == 1
    return np.repeat(inside, runs.counts).reshape(size, order="F")


def _check_outline(outline: npt.NDArray[np.float64], size: tuple[int, int]) -> None:
    """Raise ValueError unless pycocotools can draw the outline in little memory."""
    if len(outline) < 6 or len(outline) % 2:
        raise ValueError("a polygon needs three corners or more, of two numbers each")
    height, width = size
    corners = outline.reshape(-1, 2)
    # Real outlines leave the image by a pixel at most; nan fails both comparisons.
    if not ((corners >= (-width, -height)) & (corners <= (2 * width, 2 * height))).all():
        raise ValueError("a polygon has a corner that is far outside or no number")
    steps = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1)
    if steps.sum() > 2 * height * width + 8 * (height + width):
        raise ValueError("a polygon is longer than all pixels of the image")
