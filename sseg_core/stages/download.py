"""`sseg download`: captioned images in, shards of pairs out.

What goes into a shard is fixed by the positions in the source, and what is unusable leaves its
place empty, so that a rerun of an interrupted command makes the missing shards only, and in the
end the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig
from sseg_core.data.images import (
    ImageError,
    decode_image,
    encode_jpeg,
    image_size,
    is_plain_jpeg,
)
from sseg_core.data.keys import safe_key, unique_keys
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.data.sources import Pair, image_path, read_pairs
from sseg_core.data.toyworld import render_scene
from sseg_core.device import available_cores
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, DataError, did_you_mean, printable
from sseg_core.tracking import SILENT, Progress

_EXAMPLES = 5  # names kept per reason
_MENDABLE = frozenset({"missing image", "unreadable"})  # by the user; such a shard is made again


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be used: why, and its name as it may be shown."""

    reason: str
    name: str


class Source(Protocol):
    """Samples by position; it travels to worker processes, so it must be picklable."""

    def __len__(self) -> int:
        """Number of samples, usable or not."""

    def __getitem__(self, position: int) -> Sample | Skipped:
        """Make the sample at `position`; its image is a JPEG."""


class ToyWorldSource(Dataset[Sample | Skipped]):
    """The scenes of the procedural world."""

    def __init__(self, config: DownloadConfig) -> None:
        self._world = config.toyworld
        self._quality = config.jpeg_quality
        self._length = min(config.limit or self._world.scenes, self._world.scenes)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Sample | Skipped:
        scene = render_scene(self._world.seed, position, self._world.image_size)
        image = encode_jpeg(scene.image, self._quality)
        return Sample(f"toy-{position:06d}", image, scene.captions)


class PairsSource(Dataset[Sample | Skipped]):
    """The images of a captions file.

    A plain JPEG that is small enough stays as it is, byte for byte; any other image becomes one.
    """

    def __init__(self, config: DownloadConfig, pairs: list[Pair], root: Path) -> None:
        self._config = config
        self._pairs = pairs[: config.limit]
        self._root = root
        # Over all pairs, so that a limit changes no key.
        self._keys = unique_keys(os.path.splitext(pair.image)[0] for pair in pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, position: int) -> Sample | Skipped:
        pair = self._pairs[position]
        try:
            if not pair.captions:
                raise ImageError("no caption", "has no caption")
            image = self._packed_image(_read(image_path(self._root, pair.image)))
        except ImageError as error:
            return Skipped(error.reason, printable(pair.image))
        return Sample(self._keys[position], image, pair.captions)

    def _packed_image(self, data: bytes) -> bytes:
        limit, max_side = self._config.max_pixels, self._config.max_side
        height, width = image_size(data, max_pixels=limit)
        scale = 1.0 if max_side is None else max_side / max(height, width)
        if scale < 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            pixels = decode_image(data, max_pixels=limit, size=size)
        else:
            pixels = decode_image(data, max_pixels=limit)
            if is_plain_jpeg(data):
                return data
        return encode_jpeg(pixels, self._config.jpeg_quality)


@dataclass
class _Tally:
    """What became of the samples of one shard, or of all; noted with each finished shard."""

    images: int = 0
    captions: int = 0
    bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> _Tally:
        return cls(**{**note, "skipped": Counter(note["skipped"])})

    def note(self) -> dict[str, Any]:
        return {**vars(self), "skipped": dict(self.skipped)}

    def add(self, other: _Tally) -> None:
        self.images += other.images
        self.captions += other.captions
        self.bytes += other.bytes
        self.skipped.update(other.skipped)
        for reason, names in other.examples.items():
            known = self.examples.setdefault(reason, [])
            known.extend(names[: _EXAMPLES - len(known)])

    def add_sample(self, item: Sample | Skipped) -> None:
        if isinstance(item, Sample):
            self.add(_Tally(1, len(item.captions), len(item.image)))
        else:
            self.add(_Tally(skipped=Counter([item.reason]), examples={item.reason: [item.name]}))

    def check(self, length: int, max_skip_rate: float) -> None:
        """Raise once more than the allowed share of all `length` samples is unusable, or all."""
        bad = self.skipped.total()
        if bad <= max_skip_rate * length and bad < length:
            return
        reason, count = self.skipped.most_common(1)[0]
        raise DataError(
            f"{bad} of {length} images cannot be used, most often because of: {reason} "
            f"({count}, for example {self.examples[reason][0]}).",
            "Mend them and run the same command again"
            + (", or allow it with --set max_skip_rate=1." if bad < length else "."),
        )


def run(
    config: DownloadConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    progress: Progress = SILENT,
) -> Artifact:
    """Pack the images and captions of a source, and publish a `pairs` artifact.

    Stats: `images`, `captions`, `bytes` of the images, `shards`, `skipped` by reason, and up to
    five names of skipped `examples` for each.

    Raises:
        ConfigError: there is no such source.
        DataError: the captions file cannot be used (nothing is written), too many of its images
            are unusable, or a shard cannot be written.
    """
    source, default_name, fingerprint = open_source(config)
    described = {**config.model_dump(mode="json"), **fingerprint}
    with store.draft("pairs", name or default_name, described) as draft:
        total = _pack(source, config, draft, progress)
        return draft.publish({**total.note(), "shards": math.ceil(len(source) / config.shard_size)})


def open_source(config: DownloadConfig) -> tuple[Source, str, dict[str, str]]:
    """Return the source that the configuration names, a name for its artifact, and its digest.

    The digest belongs to the identity of the command: shards of an interrupted run must not be
    taken up after the captions file was changed.
    """
    kind, _, argument = config.source.partition(":")
    if config.source == "toyworld":
        return ToyWorldSource(config), "toyworld", {}
    if kind != "pairs":
        hint = did_you_mean(kind, ("toyworld", "pairs:FILE"))
        raise ConfigError(f"There is no source {printable(config.source)!r}.", hint)
    if not argument:
        raise ConfigError("The source pairs: lacks its file.", "For example: pairs:captions.jsonl")
    file = Path(argument).expanduser()
    pairs = read_pairs(file)
    root = file.parent if config.root is None else Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {printable(root)}.", "Check --root.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return PairsSource(config, pairs, root), safe_key(file.stem)[:64], {"captions_sha256": digest}


def _pack(source: Source, config: DownloadConfig, draft: Draft, progress: Progress) -> _Tally:
    """Write the shards that are missing; return the tally of all."""
    parts = {
        f"{number:06d}.tar": range(start, min(start + config.shard_size, len(source)))
        for number, start in enumerate(range(0, len(source), config.shard_size))
    }
    kept = {shard for shard in parts if _is_good(draft.finished.get(shard))}
    total = _summed(draft, kept)
    progress.start("download", len(source), "images")
    if kept:
        progress.message(f"{len(kept)} of {len(parts)} shards are there from an earlier run")
        progress.advance(total.images + total.skipped.total())
    missing = {shard: part for shard, part in parts.items() if shard not in kept}
    samples = _made(source, [position for part in missing.values() for position in part])
    for shard, part in missing.items():
        tally, members = _Tally(), []
        for item in islice(samples, len(part)):
            tally.add_sample(item)
            total.add_sample(item)
            total.check(len(source), config.max_skip_rate)
            if isinstance(item, Sample):
                members.extend(pack_sample(item, "jpg"))
            progress.advance()
        write_tar(draft.partial(shard), members)
        draft.commit(shard, tally.note())
    return _summed(draft, parts)


def _is_good(note: Mapping[str, Any] | None) -> bool:
    """Whether a shard is finished, with nothing left out that the user may have mended since."""
    return note is not None and _MENDABLE.isdisjoint(note["skipped"])


def _summed(draft: Draft, shards: Collection[str]) -> _Tally:
    total = _Tally()
    for shard in sorted(shards):
        total.add(_Tally.from_note(draft.finished[shard]))
    return total


def _made(source: Source, positions: list[int]) -> Iterator[Sample | Skipped]:
    """Yield the samples at `positions`, in order, made by all cores."""
    loader: DataLoader[Sample | Skipped] = DataLoader(
        source,  # type: ignore[arg-type]  # torch asks for its own base class
        batch_size=None,
        sampler=positions,
        num_workers=min(available_cores(), 1 + len(positions) // 100),
        prefetch_factor=64,
        collate_fn=_as_it_is,
    )
    yield from loader


def _as_it_is(item: Any) -> Any:
    return item


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ValueError) as error:  # ValueError: a name no file can have
        raise ImageError("missing image", "is missing") from error
    except OSError as error:
        raise ImageError("unreadable", "cannot be read") from error
