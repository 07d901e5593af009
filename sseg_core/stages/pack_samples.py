"""Shards of what this machine has or draws: a captions file with its images, or the toy world.

What goes into a shard is fixed by the positions in the source, and what is unusable leaves its
place empty, so that a rerun of an interrupted command makes the missing shards only, and in the
end the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from sseg_core.artifacts import Artifact
from sseg_core.config import DownloadConfig
from sseg_core.data.captions_file import Pair, image_path, read_pairs
from sseg_core.data.fetch.fitted_image import fit_image
from sseg_core.data.fetch.plan import FEWER_OR_SMALLER, DownloadPlan, expected_bytes
from sseg_core.data.fetch.tally import Skipped, Tally
from sseg_core.data.images import ImageError, encode_jpeg
from sseg_core.data.keys import safe_key, unique_keys
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.data.toyworld import render_scene
from sseg_core.device import available_cores
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.stages.pairs_packer import parts_of
from sseg_core.tracking import Progress

_MENDABLE = frozenset({"missing image", "unreadable"})  # by the user; such a shard is made again


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
    """The images of a captions file."""

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
            image, _ = fit_image(_read(image_path(self._root, pair.image)), self._config)
        except ImageError as error:
            return Skipped(error.reason, printable(pair.image))
        return Sample(self._keys[position], image, pair.captions)


@dataclass(frozen=True)
class SamplePacker:
    """Packs samples that this machine makes by itself; see `PairsPacker`."""

    name: str
    identity: Mapping[str, str]
    source: Source

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """None: this is where data comes in."""
        return ()

    def plan(self, config: DownloadConfig, folder: Path, /) -> DownloadPlan:
        """Return what packing takes."""
        images = sum(map(len, parts_of(len(self.source), config).values()))
        return DownloadPlan(
            config.source,
            "scenes of the toy world" if not self.identity else "images of this machine",
            "this machine",
            folder,
            images=images,
            disk_bytes=expected_bytes(images, config) if self.identity else None,
            less=FEWER_OR_SMALLER,
        )

    def pack(self, config: DownloadConfig, draft: Draft, progress: Progress, /) -> tuple[str, ...]:
        """Write the shards that are missing; return the names of all."""
        parts = parts_of(len(self.source), config)
        kept = [shard for shard in parts if _is_good(draft.finished.get(shard))]
        length = sum(map(len, parts.values()))
        total = Tally.of(Tally.from_note(draft.finished[shard]) for shard in kept)
        progress.start("download", length, "images")
        if kept:
            progress.message(f"{len(kept)} of {len(parts)} shards are there from an earlier run")
            progress.advance(total.images + total.skipped.total())
        missing = {shard: part for shard, part in parts.items() if shard not in kept}
        positions = [position for part in missing.values() for position in part]
        samples = _made(self.source, positions)
        for shard, part in missing.items():
            tally, members = Tally(), []
            for item in islice(samples, len(part)):
                tally.add_sample(item)
                total.add_sample(item)
                total.check(length, config.min_success)
                if isinstance(item, Sample):
                    members.extend(pack_sample(item, "jpg"))
                progress.advance()
            write_tar(draft.partial(shard), members)
            draft.commit(shard, tally.note())
        return tuple(parts)


def open_toyworld(config: DownloadConfig) -> SamplePacker:
    """Return what packs the toy world."""
    return SamplePacker("toyworld", {}, ToyWorldSource(config))


def open_pairs(argument: str, config: DownloadConfig) -> SamplePacker:
    """Return what packs the images of a captions file.

    Raises:
        ConfigError: no file is named.
        DataError: it cannot be used.
    """
    if not argument:
        raise ConfigError("The source pairs: lacks its file.", "For example: pairs:captions.jsonl")
    file = Path(argument).expanduser()
    pairs = read_pairs(file)
    root = file.parent if config.root is None else Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {printable(root)}.", "Check --root.")
    # Shards of an interrupted run must not be taken up after the captions file was changed.
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    source = PairsSource(config, pairs, root)
    return SamplePacker(safe_key(file.stem)[:64], {"captions_sha256": digest}, source)


def _is_good(note: Mapping[str, Any] | None) -> bool:
    """Whether a shard is finished, with nothing left out that the user may have mended since."""
    return note is not None and _MENDABLE.isdisjoint(note["skipped"])


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
