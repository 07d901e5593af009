"""Captioned images of webdataset tars that others made, whatever they call their members.

A sample is what has one name up to the first dot of its last part, its files side by side:
`00012/000120007.jpg`, `.txt`, `.json`. Names are only ever shown or turned into keys.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.fitted_image import fit_image
from sseg_core.data.fetch.tally import Skipped
from sseg_core.data.images import ImageError
from sseg_core.data.keys import safe_key
from sseg_core.data.shards import IMAGE_EXTENSIONS, Sample, clean_caption
from sseg_core.data.tar_files import tar_files
from sseg_core.data.urls import open_shard
from sseg_core.device import available_cores
from sseg_core.errors import printable

_TEXTS = ("txt", "text", "caption")
_FIELDS = ("captions", "caption", "texts", "text", "sentences", "alt_text")
"""Fields of a sample's JSON that hold its captions, the better first; upper case does as well."""
_WANTED = frozenset((*IMAGE_EXTENSIONS, *_TEXTS, "json"))
_MAX_TEXT_BYTES = 2**20
_MAX_EXPANSION = 20  # of a compressed tar; JPEGs expand by a few percent
_FREE_EXPANSION_BYTES = 2**28
_AHEAD = 4  # samples under way for each thread
_AHEAD_BYTES = 2**28  # of these, in all


@dataclass(frozen=True)
class _Named:
    name: str
    extension: str
    content: bytes


def read_foreign_shard(
    path: Path, number: int, name: str, *, max_image_bytes: int
) -> Iterator[Sample | Skipped]:
    """Yield the samples of a tar in order; those that cannot be used with the reason.

    Reasons are "no image", "no caption", "unreadable captions", and those of `tar_files`. Where a
    sample comes twice, the second has a key of its own.

    Args:
        path: of the tar, compressed or not.
        number: of the shard; the keys of the samples begin with it and differ between shards.
        name: of the shard, as its authors call it.
        max_image_bytes: larger image files are passed over.

    Raises:
        ShardError: the file cannot be read.
    """
    used: set[str] = set()
    lost = Counter[str]()
    most = _MAX_EXPANSION * path.stat().st_size + _FREE_EXPANSION_BYTES
    with open_shard(str(path)) as stream:
        members = _named(tar_files(stream, lost, max_member_bytes=max_image_bytes, max_bytes=most))
        for index, (stem, group) in enumerate(groupby(members, lambda member: member.name)):
            files: dict[str, bytes] = {}
            for member in group:
                if member.extension in _WANTED:
                    files.setdefault(member.extension, member.content)
            yield from _reported(lost, name)
            yield _sample(stem, files, f"{number:06d}", index, used)
    yield from _reported(lost, name)


class FittingThreads:
    """Reads tars that others made, and fits their images with all cores.

    Threads do: the libraries that decode, shrink and encode let others run meanwhile, and no image
    has to go from one process to another.
    """

    def __init__(self, config: DownloadConfig) -> None:
        """Make the threads.

        Args:
            config: how images are fitted; of its `fetch` the `max_bytes`.
        """
        self._config = config
        self._pool = ThreadPoolExecutor(available_cores())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def samples(self, path: Path, number: int, name: str) -> Iterator[tuple[Sample | Skipped, int]]:
        """Yield the samples of a tar in order, and the bytes of their images as they were.

        Only so many are in memory at once. See `read_foreign_shard`.
        """
        under_way = deque[tuple[Future[Sample | Skipped], int]]()
        size = 0
        limit = self._config.fetch.max_bytes
        for item in read_foreign_shard(path, number, name, max_image_bytes=limit):
            length = len(item.image) if isinstance(item, Sample) else 0
            under_way.append((self._pool.submit(self._fit, item), length))
            size += length
            while len(under_way) > _AHEAD * available_cores() or size > _AHEAD_BYTES:
                future, length = under_way.popleft()
                size -= length
                yield future.result(), length
        for future, length in under_way:
            yield future.result(), length

    def _fit(self, item: Sample | Skipped) -> Sample | Skipped:
        if isinstance(item, Skipped):
            return item
        try:
            image, _ = fit_image(item.image, self._config)
        except ImageError as error:
            return Skipped(error.reason, item.key)
        return replace(item, image=image)


def _named(members: Iterator[tuple[str, bytes]]) -> Iterator[_Named]:
    for path, content in members:
        folder, slash, file = path.rpartition("/")
        stem, _, extension = file.partition(".")
        # Files without a stem are what macOS and others hide beside the real ones.
        if stem and extension:
            yield _Named(f"{folder}{slash}{stem}", extension.lower(), content)


def _sample(
    name: str, files: dict[str, bytes], shard: str, index: int, used: set[str]
) -> Sample | Skipped:
    image = next((files[e] for e in IMAGE_EXTENSIONS if e in files), None)
    if image is None:
        return Skipped("no image", printable(name))
    try:
        captions = _captions(files)
    except ValueError:
        return Skipped("unreadable captions", printable(name))
    if not captions:
        return Skipped("no caption", printable(name))
    key = f"{shard}-{safe_key(name)}"
    if key in used:
        key = f"{shard}-{index}_"  # which `safe_key` never returns
    used.add(key)
    return Sample(key, image, captions)


def _captions(files: dict[str, bytes]) -> tuple[str, ...]:
    """Return the captions; ValueError where they cannot be read."""
    texts = [files[extension] for extension in _TEXTS if extension in files]
    if any(len(text) > _MAX_TEXT_BYTES for text in (*texts, files.get("json", b""))):
        raise ValueError("no captions of a sane length")
    for text in texts:
        if caption := clean_caption(text.decode("utf-8", "replace")):
            return (caption,)
    if "json" not in files:
        return ()
    try:
        return _captions_of(json.loads(files["json"]))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _captions_of(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        fields = {str(name).lower(): content for name, content in value.items()}
        found = (_captions_of(fields[field]) for field in _FIELDS if field in fields)
        return next((captions for captions in found if captions), ())
    texts = value if isinstance(value, list) else [value]
    return tuple(
        clean for text in texts if isinstance(text, str) and (clean := clean_caption(text))
    )


def _reported(lost: Counter[str], name: str) -> list[Skipped]:
    skipped = [Skipped(reason, printable(name)) for reason in lost.elements()]
    lost.clear()
    return skipped
