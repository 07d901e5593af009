"""True label maps from PNG files in which the value of a pixel is its label.

What is wrong with one file is an `ImageError`: the evaluator skips that image and counts it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile

from sseg_core.data.images import ImageError
from sseg_core.errors import DataError, printable
from sseg_core.evaluation.examples import LabelMap
from sseg_core.structures import MAX_PIXELS

LabelTable = npt.NDArray[np.int16]
"""[65536] class index, `BACKGROUND` or `VOID` of each value of a file; `_UNKNOWN` where none."""

_UNKNOWN = -3
_SHOWN_VALUES = 5

# Of the PNG header, ISO/IEC 15948 section 11.2.2: colour type 3 holds palette indices.
_GREY, _RGB, _PALETTE = 0, 2, 3
_KINDS = {_GREY: "a grey", _RGB: "an RGB", _PALETTE: "a palette", 4: "a grey-alpha", 6: "an RGBA"}


def label_table(labels: Mapping[int, int]) -> LabelTable:
    """Return the table that turns the values of a file into labels; other values are refused."""
    table = np.full(1 << 16, _UNKNOWN, np.int16)
    table[list(labels)] = list(labels.values())
    return table


def read_label_image(
    path: Path, table: LabelTable, wide_table: LabelTable | None = None
) -> LabelMap:
    """Read a palette or grey PNG.

    Args:
        path: of the file.
        table: the labels of the values in a file of up to 8 bits.
        wide_table: the same for 16 bits; None refuses such files.

    Returns:
        [H, W] labels.

    Raises:
        ImageError: the file cannot be read, is cut short, is of another kind, has too many
            pixels, or holds a value that has no label.
    """
    data = _read(path)
    depth, kind = _depth_and_kind(data, path)
    labels_of = table if depth <= 8 else wide_table
    if labels_of is None or not _holds_labels(depth, kind):
        raise _bad_truth(path, f"is {_kind_name(depth, kind)} PNG, {_NO_LABELS}")
    return _to_labels(_pixels(data, path), labels_of, path)


def read_rgb_labels(path: Path, table: LabelTable) -> LabelMap:
    """Read an RGB PNG of values R + 256 G, in which more than 255 classes find room.

    Returns:
        [H, W] labels.

    Raises:
        ImageError: as of `read_label_image`.
    """
    data = _read(path)
    depth, kind = _depth_and_kind(data, path)
    if (depth, kind) != (8, _RGB):
        raise _bad_truth(path, f"is {_kind_name(depth, kind)} PNG, not an RGB one of 8 bits")
    red_HW, green_HW, _ = _pixels(data, path).transpose(2, 0, 1)
    return _to_labels(red_HW + 256 * green_HW.astype(np.uint16), table, path)


def refuse_pictures(path: Path, hint: str) -> None:
    """Refuse a folder of masks by its first file, if that is a coloured picture.

    Raises:
        DataError: the file is a PNG, but of another kind than palette or grey.
    """
    try:
        depth, kind = _depth_and_kind(_read(path), path)
    except ImageError:
        return  # one damaged file says nothing of the others
    if not _holds_labels(depth, kind):
        raise DataError(
            f"{printable(path, None)} is {_kind_name(depth, kind)} PNG, {_NO_LABELS}.", hint
        )


_NO_LABELS = "whose colours are no labels; it must be palette or 8-bit grey"


def _holds_labels(depth: int, kind: int) -> bool:
    """Whether a PNG's samples are numbers of labels.

    Grey of less than 8 bits is not: readers stretch it to 0..255, some writers do not.
    """
    return kind == _PALETTE or (kind == _GREY and depth in {8, 16})


def _kind_name(depth: int, kind: int) -> str:
    name = _KINDS.get(kind, "an unknown")
    return name if depth == 8 else f"{name} {depth}-bit"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise _bad_truth(path, f"cannot be read: {reason}") from error


def _depth_and_kind(data: bytes, path: Path) -> tuple[int, int]:
    """Return bits per sample and colour type from the header, which must come first."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR" or len(data) < 33:
        raise _bad_truth(path, "is no readable PNG")
    return data[24], data[25]


def _pixels(data: bytes, path: Path) -> npt.NDArray[np.integer]:
    """Return the samples, [H, W] or [H, W, 3]."""
    try:
        opened = PngImageFile(io.BytesIO(data))
        if opened.width * opened.height > MAX_PIXELS:
            raise _bad_truth(path, f"has more than {MAX_PIXELS:,} pixels")
        return np.array(opened)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        truncated = "truncated" in str(error)
        problem = "is truncated: the file ends too early" if truncated else "is no readable PNG"
        raise _bad_truth(path, problem) from error


def _to_labels(values: npt.NDArray[np.integer], table: LabelTable, path: Path) -> LabelMap:
    labels: LabelMap = table[values]
    unknown = np.unique(values[labels == _UNKNOWN]).tolist()
    if unknown:
        shown = ", ".join(map(str, unknown[:_SHOWN_VALUES]))
        more = f" and {len(unknown) - _SHOWN_VALUES} more" if len(unknown) > _SHOWN_VALUES else ""
        noun, verb = ("value", "is") if len(unknown) == 1 else ("values", "are")
        raise _bad_truth(path, f"holds the {noun} {shown}{more}, which {verb} no label of a class")
    return labels


def _bad_truth(path: Path, problem: str) -> ImageError:
    return ImageError("bad truth", problem, printable(path, None))
