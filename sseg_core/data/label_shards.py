"""Labels that a teacher gave, in shards: a tar of PNG files, and an index to find each at once.

labels-00000.tar      NUMBER.label.png       grey, 8 or 16 bits: class index; the two highest values
                                             are void and background
                      NUMBER.confidence.png  grey, 8 bits: round(255 p); absent if the teacher says
                                             nothing of it
labels-00000.jsonl    one line per image, in the same order:
    {"key": "a/photo.jpg", "height": 375, "width": 500,
     "label": [OFFSET, SIZE], "confidence": [OFFSET, SIZE] or null,
     "pixels": {"LABEL": COUNT, ...}, "mean_confidence": 0.9 or null}

OFFSET and SIZE are in bytes of the tar file. Keys are what strangers named their files, so they are
never a path or the name of a member.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import ImageError
from sseg_core.data.label_png import (
    MAX_CLASSES,
    confidence_levels,
    decode_confidence,
    decode_labels,
    encode_confidence,
    encode_labels,
)
from sseg_core.data.shards import add_member, cannot_write, open_tar
from sseg_core.errors import ArtifactError, printable
from sseg_core.structures import MAX_PIXELS, VOID, LabelMap

_MAX_MEMBER_BYTES = 2**28  # more than a label image of MAX_PIXELS needs

_Place = tuple[int, int]  # offset and size


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """Where the labels of one image are, and what is among them.

    Attributes:
        key: of the image; unchecked text.
        height: of the image in pixels.
        width: of the image in pixels.
        tar: the shard.
        label: offset and size of the label image in the shard, in bytes.
        confidence: the same of the confidences; None where there are none.
        pixels: number of pixels of each label that occurs, `BACKGROUND` and `VOID` among them, at
            any confidence.
        mean_confidence: of the pixels that are not `VOID`, in [0, 1]; None without confidences.
    """

    key: str
    height: int
    width: int
    tar: Path
    label: _Place
    confidence: _Place | None
    pixels: Mapping[int, int]
    mean_confidence: float | None

    def read(self, min_confidence: float) -> LabelMap:
        """Return the [H, W] labels, `VOID` where confidence is below `min_confidence` in [0, 1].

        Confidence counts as it is kept, in steps of 1/255. Without any, all labels are returned.

        Raises:
            ImageError: they are damaged, "bad label", or cannot be read, "unreadable".
        """
        if min_confidence <= 0 or self.confidence is None:
            return self._labels(*self._contents(self.label))
        label, confidence = self._contents(self.label, self.confidence)
        labels = self._labels(label)
        least = np.count_nonzero(np.arange(256) / 255 < min_confidence)
        np.putmask(labels, self._levels(confidence) < least, VOID)
        return labels

    def read_confidence(self) -> npt.NDArray[np.float32] | None:
        """Return the [H, W] confidences in [0, 1]; None where the teacher gave none.

        Raises:
            ImageError: as `read`.
        """
        if self.confidence is None:
            return None
        levels = self._levels(*self._contents(self.confidence))
        return levels.astype(np.float32) / np.float32(255)

    def _labels(self, data: bytes) -> LabelMap:
        try:
            return decode_labels(data, (self.height, self.width))
        except ImageError as error:
            raise self._bad(error.problem) from error

    def _levels(self, data: bytes) -> npt.NDArray[np.uint8]:
        try:
            return decode_confidence(data, (self.height, self.width))
        except ImageError as error:
            raise self._bad(error.problem) from error

    def _contents(self, *places: _Place) -> list[bytes]:
        contents = []
        try:
            with self.tar.open("rb") as stream:
                for offset, size in places:
                    stream.seek(offset)
                    contents.append(stream.read(size))
        except OSError as error:
            reason = (error.strerror or "unknown error").lower()
            subject = printable(self.tar)
            raise ImageError("unreadable", f"cannot be read: {reason}", subject) from error
        return contents

    def _bad(self, problem: str) -> ImageError:
        subject = f"The label image of {printable(self.key)} in {printable(self.tar)}"
        return ImageError("bad label", problem, subject)


class LabelShardWriter:
    """Writes one shard and, at the end, its index beside it; equal labels give equal bytes.

    An exception inside the `with` block leaves no index, so that nobody takes the shard for whole.

    Args:
        tar: path of the shard; its name ends in `.tar`.

    Raises:
        DataError: on any use: the disk is full, or the file cannot be written.
    """

    def __init__(self, tar: Path) -> None:
        self._path = tar
        self._lines: list[str] = []
        try:
            self._stream: IO[bytes] = tar.open("wb")
        except OSError as error:
            raise cannot_write(tar, error) from error
        self._tar = open_tar(self._stream)

    def __enter__(self) -> Self:
        return self

    def write(
        self, key: str, label_map: LabelMap, confidence: npt.NDArray[np.float32] | None
    ) -> None:
        """Add the labels of one image.

        Args:
            key: of the image, any text.
            label_map: [H, W] int16 class index, `BACKGROUND` or `VOID`.
            confidence: [H, W] probability in [0, 1] of each label, or None.
        """
        assert label_map.min() >= VOID
        labels, counts = np.unique(label_map, return_counts=True)
        line: dict[str, Any] = {"key": key, "height": label_map.shape[0]}
        line["width"] = label_map.shape[1]
        number = f"{len(self._lines):05d}"
        line["label"] = self._add(f"{number}.label.png", encode_labels(label_map))
        line["confidence"] = line["mean_confidence"] = None
        if confidence is not None:
            assert confidence.shape == label_map.shape
            data = encode_confidence(confidence)
            line["confidence"] = self._add(f"{number}.confidence.png", data)
            line["mean_confidence"] = _mean_confidence(label_map, confidence)
        line["pixels"] = dict(zip(map(str, labels.tolist()), counts.tolist(), strict=True))
        self._lines.append(json.dumps(line, separators=(",", ":")) + "\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._stream:
                if kind is None:
                    self._tar.close()
            if kind is None:
                self._path.with_suffix(".jsonl").write_text("".join(self._lines), encoding="ascii")
        except OSError as problem:
            if kind is None:
                raise cannot_write(self._path, problem) from problem

    def _add(self, name: str, content: bytes) -> list[int]:
        try:
            offset = self._stream.tell() + tarfile.BLOCKSIZE  # behind the member's header
            add_member(self._tar, name, content)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return [offset, len(content)]


def _mean_confidence(label_map: LabelMap, confidence: npt.NDArray[np.float32]) -> float | None:
    levels = confidence_levels(confidence)[label_map != VOID]
    return round(int(levels.sum(dtype=np.int64)) / 255 / levels.size, 6) if levels.size else None


def read_label_index(indices: Iterable[Path]) -> list[LabelEntry]:
    """Return the entries of the shards whose `.jsonl` files are given, in order.

    Raises:
        ArtifactError: a file is missing or damaged; the line is named.
    """
    return [entry for path in indices for entry in _entries(path)]


def _entries(path: Path) -> Iterator[LabelEntry]:
    again = "Make the labels again: sseg selftrain"
    tar = path.with_suffix(".tar")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise ArtifactError(f"{printable(path, None)} cannot be read: {reason}.", again) from error
    for number, line in enumerate(lines, start=1):
        try:
            yield _entry(json.loads(line), tar)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(
                f"Line {number} of {printable(path, None)} is damaged.", again
            ) from error


def _entry(line: dict[str, Any], tar: Path) -> LabelEntry:
    """Return the entry of a line; a ValueError or the like where it cannot be true."""
    height, width, mean = line["height"], line["width"], line["mean_confidence"]
    pixels = {int(label): count for label, count in line["pixels"].items()}
    confidence = line["confidence"]
    entry = LabelEntry(
        key=line["key"],
        height=height,
        width=width,
        tar=tar,
        label=_place(line["label"]),
        confidence=None if confidence is None else _place(confidence),
        pixels=pixels,
        mean_confidence=None if mean is None else float(mean),
    )
    is_possible = (
        type(entry.key) is str
        and type(height) is type(width) is int
        and 0 < height * width <= MAX_PIXELS
        and height > 0
        and all(VOID <= label < MAX_CLASSES for label in pixels)
        and all(type(count) is int and count > 0 for count in pixels.values())
        and sum(pixels.values()) == height * width
        and (mean is None or 0 <= mean <= 1)
    )
    if not is_possible:
        raise ValueError("impossible values")
    return entry


def _place(value: list[Any]) -> _Place:
    offset, size = value
    if not (type(offset) is type(size) is int and offset >= 0 and 0 < size <= _MAX_MEMBER_BYTES):
        raise ValueError("no place in a file")
    return offset, size
