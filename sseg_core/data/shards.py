"""Shards: tar files of samples, read and written the same way by every stage.

A pairs shard `NNNNNN.tar` holds per sample `KEY.jpg` (or another image type) and `KEY.json` with
`{"captions": [...]}`. A masks shard of the same name holds `KEY.mask.png` for some of those keys,
in the same order. Any webdataset reader understands both.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from sseg_core.errors import DataError

MASK = "mask.png"
"""What follows `KEY.` in the name of a mask."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_MADE_KEY_LENGTH = 80  # leaves room for a suffix, and for `.mask.png` in a tar name of 100 bytes
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")


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


def safe_key(text: str) -> str:
    """Return `text` as a key: ASCII letters, digits, `_` and `-`, 1 to 80 of them.

    A key never is a path, and holds no dot, since webdataset ends it at the first one. Different
    texts can give the same key; see `unique_keys`.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_text)
    # The end of a long path tells files apart, not its beginning.
    return slug[-_MADE_KEY_LENGTH:].strip("_-") or "sample"


def unique_keys(texts: Iterable[str]) -> list[str]:
    """Return one key per text, in order; of equal ones, the later get `-2`, `-3`, ..."""
    used: set[str] = set()
    next_number: Counter[str] = Counter()
    keys = []
    for text in texts:
        base = key = safe_key(text)
        while key in used:
            next_number[base] += 1
            key = f"{base}-{next_number[base] + 1}"
        used.add(key)
        keys.append(key)
    return keys


def clean_caption(text: str) -> str:
    """Return a caption as one line of valid Unicode, without space around it."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def pack_sample(sample: Sample, extension: str) -> list[tuple[str, bytes]]:
    """Return the tar members of a sample; `extension` is the image's type, such as `jpg`."""
    captions = json.dumps({"captions": sample.captions}, ensure_ascii=False).encode()
    return [(f"{sample.key}.{extension}", sample.image), (f"{sample.key}.json", captions)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write the members (name, content) as a tar file that depends on nothing else.

    No time, user or machine enters the file, so equal members give equal bytes.

    Raises:
        DataError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {(error.strerror or 'unknown error').lower()}.",
            "Free some space or choose another --store, and run the same command again.",
        ) from error


def read_shard(path: Path, skipped: Counter[str] | None = None) -> Iterator[Sample]:
    """Yield the samples of a pairs shard in order.

    What cannot be used is passed over and counted in `skipped`, by reason: "unsafe name",
    "duplicate name", "no image", "no caption", "unreadable captions", "truncated shard". Of a
    truncated shard, the samples before the cut are yielded.

    Raises:
        DataError: the file is missing.
    """
    counts = Counter() if skipped is None else skipped
    for group in _groups(path, counts):
        extension = next((e for e in _IMAGES if e in group), None)
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


def read_masks(path: Path, skipped: Counter[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (key, PNG bytes) of a masks shard in order; counts as in `read_shard`.

    Raises:
        DataError: the file is missing.
    """
    counts = Counter() if skipped is None else skipped
    for group in _groups(path, counts):
        if MASK in group:
            yield group["__key__"], group[MASK]


def read_shard_with_masks(
    pairs_path: Path, masks_path: Path, skipped: Counter[str] | None = None
) -> Iterator[tuple[Sample, bytes]]:
    """Yield (sample, mask PNG) in the order of a pairs shard, joined on the keys.

    A sample without a mask is passed over and counted in `skipped` as "no mask"; otherwise as in
    `read_shard`.

    Raises:
        DataError: a file is missing.
    """
    counts = Counter() if skipped is None else skipped
    # Label maps on the token grid are about 1 kB each, so a shard's worth fits in memory.
    masks = dict(read_masks(masks_path, counts))
    for sample in read_shard(pairs_path, counts):
        if sample.key in masks:
            yield sample, masks[sample.key]
        else:
            counts["no mask"] += 1


def _groups(path: Path, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield webdataset's groups: `__key__`, and the content of its members by extension."""

    def is_safe(name: str) -> bool:
        key, _, extension = name.partition(".")
        safe = bool(_KEY.fullmatch(key) and extension)
        if not safe:
            skipped["unsafe name"] += 1
        return safe

    def end_shard(_: Exception) -> bool:
        skipped["truncated shard"] += 1
        return False

    def pass_over(_: Exception) -> bool:
        skipped["duplicate name"] += 1
        return True

    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(
            f"Cannot read the shard {path}: {(error.strerror or 'unknown error').lower()}.",
            "Its artifact is incomplete: make it again.",
        ) from error
    with stream:
        source = [{"url": str(path), "stream": stream}]
        members = tar_file_expander(source, handler=end_shard, select_files=is_safe)
        yield from group_by_keys(members, handler=pass_over)


def _captions(content: bytes) -> tuple[str, ...]:
    """Return the captions of a sample's JSON; ValueError where it is no such JSON."""
    try:
        captions = json.loads(content)["captions"]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("no list of captions") from error
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ValueError("no list of captions")
    return tuple(clean for text in captions if (clean := clean_caption(text)))
