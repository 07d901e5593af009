"""Shards: tar files of samples, read and written the same way by every stage.

A pairs shard `NNNNNN.tar` holds per sample `KEY.jpg` (or another image type) and `KEY.json` with
`{"captions": [...]}`. A masks shard of the same name holds `KEY.mask.png` for some of those keys,
in the same order. Any webdataset reader understands both.

A masks shard is compressed, since tar pads the 300 bytes of a small mask to 1024. It keeps the
name of its pairs shard: every reader of tar files sees by itself that there is gzip around one.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sseg_core.data.tar_files import tar_files
from sseg_core.data.urls import open_shard
from sseg_core.errors import DataError

MASK = "mask.png"
"""What follows `KEY.` in the name of a mask."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_MAX_MEMBER_BYTES = 2**28  # a compressed shard may hold members that fill the memory
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")


@dataclass(frozen=True)
class Sample:
    """One captioned image of a pairs shard.

    Attributes:
        key: unique in its artifact; letters, digits, `_` and `-` only.
        image: the bytes of the image file.
        captions: at least one, none empty.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]


def clean_caption(text: str) -> str:
    """Return a caption as one line of valid Unicode, without space around it."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def pack_sample(sample: Sample, extension: str) -> list[tuple[str, bytes]]:
    """Return the tar members of a sample; `extension` is the image's type, such as `jpg`."""
    captions = json.dumps({"captions": sample.captions}, ensure_ascii=False).encode()
    return [(f"{sample.key}.{extension}", sample.image), (f"{sample.key}.json", captions)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, compress: bool = False) -> None:
    """Write the members (name, content) as a tar file that depends on nothing else.

    No time, user or machine enters the file, so equal members give equal bytes.

    Raises:
        DataError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        with path.open("wb") as stream:
            if compress:
                with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                    _write_members(packed, members)
            else:
                _write_members(stream, members)
    except OSError as error:
        raise cannot_write(path, error) from error


def open_tar(stream: IO[bytes] | gzip.GzipFile) -> tarfile.TarFile:
    """Return a tar file that is written to `stream`, for `add_member`."""
    return tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar; its name has at most 100 bytes."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def cannot_write(path: Path, error: OSError) -> DataError:
    """Return what to raise where a shard cannot be written."""
    return DataError(
        f"Cannot write {path}: {(error.strerror or 'unknown error').lower()}.",
        "Free some space or choose another --store, and run the same command again.",
    )


def _write_members(stream: IO[bytes] | gzip.GzipFile, members: Iterable[tuple[str, bytes]]) -> None:
    with open_tar(stream) as tar:
        for name, content in members:
            add_member(tar, name, content)


def read_shard(shard: Path | str, skipped: Counter[str] | None = None) -> Iterator[Sample]:
    """Yield the samples of a pairs shard, a file or a URL, in order.

    What cannot be used is passed over and counted in `skipped`, by reason: "unsafe name",
    "duplicate name", "no image", "no caption", "unreadable captions", "damaged member",
    "too large", "truncated shard". Of a truncated shard, the samples before the cut are yielded;
    behind a damaged member, reading goes on with the next whole one.

    Raises:
        DataError: the file is missing, or its URL cannot be read.
    """
    counts = Counter() if skipped is None else skipped
    for group in _groups(shard, counts):
        extension = next((e for e in IMAGE_EXTENSIONS if e in group), None)
        if extension is None:
            counts["no image"] += 1
            continue
        try:
            captions = _captions(group.get("json", b'{"captions": []}'))
        except ValueError:
            counts["unreadable captions"] += 1
            continue
        if not captions:
            counts["no caption"] += 1
            continue
        yield Sample(group["__key__"], group[extension], captions)


def read_masks(
    shard: Path | str, skipped: Counter[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, PNG bytes) of a masks shard in order; counts as in `read_shard`.

    Raises:
        DataError: the file is missing.
    """
    counts = Counter() if skipped is None else skipped
    for group in _groups(shard, counts):
        if MASK in group:
            yield group["__key__"], group[MASK]


def read_shard_with_masks(
    pairs_path: Path | str, masks_path: Path | str, skipped: Counter[str] | None = None
) -> Iterator[tuple[Sample, bytes]]:
    """Yield (sample, mask PNG) in the order of a pairs shard, joined on the keys.

    A sample without a mask is passed over and counted in `skipped` as "no mask"; otherwise as in
    `read_shard`.

    Raises:
        DataError: a file is missing, or there is a mask of a sample that the whole pairs shard
            does not have: the two do not belong together.
    """
    counts = Counter() if skipped is None else skipped
    # Label maps on the token grid are about 1 kB each, so a shard's worth fits in memory.
    masks = dict(read_masks(masks_path, counts))
    losses = Counter[str]()
    lost = 0
    for sample in read_shard(pairs_path, losses):
        lost += losses.total()
        counts.update(losses)
        losses.clear()
        mask = masks.pop(sample.key, None)
        if mask is None:
            counts["no mask"] += 1
        else:
            yield sample, mask
    counts.update(losses)
    if masks and not lost + losses.total():
        raise DataError(
            f"The masks in {masks_path} are not those of {pairs_path}: there is one for "
            f"{next(iter(masks))!r}, which that shard does not hold.",
            "Make the masks again: sseg pseudomask",
        )


def _groups(shard: Path | str, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield webdataset's groups: `__key__`, and the content of its members by extension."""
    # It brings torch along, which those that only write shards do without.
    from webdataset.tariterators import group_by_keys

    def pass_over(_: Exception) -> bool:
        skipped["duplicate name"] += 1
        return True

    with closing(open_shard(str(shard))) as stream:
        members = _members(stream, skipped)
        # Of webdataset's fields, only the name and the content matter here.
        files = ({"fname": name, "data": data, "__url__": ""} for name, data in members)
        yield from group_by_keys(files, handler=pass_over)


def _members(stream: IO[bytes], skipped: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files of a tar with safe names."""
    for name, content in tar_files(stream, skipped, max_member_bytes=_MAX_MEMBER_BYTES):
        key, _, extension = name.partition(".")
        if _KEY.fullmatch(key) and extension:
            yield name, content
        else:
            skipped["unsafe name"] += 1


def _captions(content: bytes) -> tuple[str, ...]:
    """Return the captions of a sample's JSON; ValueError where it is no such JSON."""
    try:
        captions = json.loads(content)["captions"]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("no list of captions") from error
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ValueError("no list of captions")
    return tuple(clean for text in captions if (clean := clean_caption(text)))
