"""Shards of pairs into shards of masks, in one process, so that the device never waits.

One thread reads and decodes ahead, the main thread runs the network and the clustering, another
thread encodes and writes. Batches run across the borders of shards: the images of the next shard
fill the last batch of this one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import ImageError, RGBImage, decode_image
from sseg_core.data.read_ahead import read_ahead
from sseg_core.data.shards import MASK, read_shard, write_tar
from sseg_core.data.urls import join, store_file
from sseg_core.device import use_one_thread
from sseg_core.errors import DataError
from sseg_core.manifest import sha256_of
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.pseudomask.label_png import encode_label_map
from sseg_core.shared_draft import SharedDraft
from sseg_core.structures import IGNORE_LABEL, MAX_PIXELS
from sseg_core.tracking import Progress

_READ_AHEAD = 2  # batches
_WRITE_BEHIND = 32  # batches
_PARTS_PER_THREAD = 4  # of a batch on a CPU
_JUDGED_AFTER = 1000  # samples before the share of unusable ones means something


@dataclass
class Tally:
    """What became of the samples of one shard, or of all; noted with each finished shard."""

    images: int = 0
    segments: int = 0
    png_bytes: int = 0
    shard_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Tally:
        """Return the tally that a finished shard was noted with."""
        values = {name: note[name] for name in ("images", "segments", "png_bytes", "shard_bytes")}
        return cls(**values, skipped=Counter(note["skipped"]))

    def note(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "skipped": dict(self.skipped)}

    def add(self, other: Tally) -> None:
        """Add what another shard came to."""
        self.images += other.images
        self.segments += other.segments
        self.png_bytes += other.png_bytes
        self.shard_bytes += other.shard_bytes
        self.skipped.update(other.skipped)

    def check(self, max_skip_rate: float) -> None:
        """Raise DataError if more than the allowed share of the samples is unusable."""
        bad = self.skipped.total()
        if bad > max_skip_rate * (self.images + bad):
            reason, count = self.skipped.most_common(1)[0]
            raise DataError(
                f"{bad} of {self.images + bad} samples cannot be used, most often because of: "
                f"{reason} ({count}).",
                "Mend the pairs, or allow it with --set max_skip_rate=1.",
            )


@dataclass
class Shard:
    """A shard in the making, with what came of it so far.

    Attributes:
        name: of the shard of pairs and of that of masks.
        location: path or URL of the shard of pairs.
        draft: where the masks go.
        claim: released once they are there.
    """

    name: str
    location: str
    draft: SharedDraft
    claim: FileLock
    tally: Tally = field(default_factory=Tally)
    members: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class _Batch:
    """Images of one shard or of several.

    Attributes:
        images: [B, H, W, 3] uint8 RGB, in page-locked memory if they go to a GPU.
        keys: the B sample keys.
        shards: the shard of each image.
        complete: shards whose last image is in this batch, or was in one before.
    """

    images: Tensor
    keys: list[str]
    shards: list[Shard]
    complete: list[Shard]


class ShardMaker:
    """Makes the masks of one shard after the other."""

    def __init__(
        self,
        config: PseudomaskConfig,
        device: torch.device,
        progress: Progress,
        *,
        threads: int,
    ) -> None:
        self._config = config
        self._device = device
        self._progress = progress
        self._threads = threads
        self._generator = PseudoMaskGenerator(config, device)
        self._total = Tally()

    def make(self, shards: Iterator[Shard]) -> int:
        """Make and commit the shards, releasing each one's claim; return the number of images.

        Raises:
            DataError: too many samples are unusable, or a shard cannot be read or written.
        """
        images = 0
        writing: deque[Future[None]] = deque()
        with (
            ThreadPoolExecutor(1) as writer,
            closing(read_ahead(self._batches(shards), _READ_AHEAD)) as batches,
        ):
            for batch in batches:
                label_maps = self._cluster(batch)
                writing.append(writer.submit(self._write, batch, label_maps))
                self._progress.advance(len(batch.keys))
                images += len(batch.keys)
                while writing and (writing[0].done() or len(writing) > _WRITE_BEHIND):
                    writing.popleft().result()
            for future in writing:
                future.result()
        return images

    def _cluster(self, batch: _Batch) -> npt.NDArray[np.uint8]:
        """Return [B, gh, gw] label maps."""
        if not batch.keys:
            return np.empty((0, 1, 1), np.uint8)
        if self._device.type != "cpu":
            return self._cluster_part(batch.images, batch.keys)
        # Each thread has images of its own. Threads that share every small operation wait for each
        # other after it, several times as long as it takes where decoding has its share of the
        # cores; and an image's label map does not depend on its neighbours.
        threads = torch.get_num_threads()
        size = max(1, len(batch.keys) // (_PARTS_PER_THREAD * threads))
        keys = (batch.keys[begin : begin + size] for begin in range(0, len(batch.keys), size))
        try:
            with ThreadPoolExecutor(threads, initializer=use_one_thread) as pool:
                parts = list(pool.map(self._cluster_part, torch.split(batch.images, size), keys))
        finally:
            torch.set_num_threads(threads)  # else what the pool set would hold for later threads
        return np.concatenate(parts)

    def _cluster_part(self, images: Tensor, keys: list[str]) -> npt.NDArray[np.uint8]:
        # The GPU gets bytes, and makes floats of them.
        pixels = images.to(self._device, non_blocking=True)
        label_maps = self._generator(pixels.permute(0, 3, 1, 2).float() / 255, keys)
        result: npt.NDArray[np.uint8] = label_maps.cpu().numpy()
        return result

    def _batches(self, shards: Iterator[Shard]) -> Generator[_Batch]:
        size = self._config.image_size
        pixels: list[RGBImage] = []
        keys: list[str] = []
        owners: list[Shard] = []
        complete: list[Shard] = []

        def batch() -> _Batch:
            shape = (len(pixels), size, size, 3)
            images = torch.empty(
                shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda" and bool(pixels)
            )
            for target, image in zip(images.numpy(), pixels, strict=True):
                target[:] = image
            full = _Batch(images, keys.copy(), owners.copy(), complete.copy())
            for values in (pixels, keys, owners, complete):
                values.clear()
            return full

        try:
            with closing(self._decoded(shards)) as decoded:
                for shard, item in decoded:
                    if item is None:
                        complete.append(shard)
                        continue
                    keys.append(item[0])
                    pixels.append(item[1])
                    owners.append(shard)
                    if len(keys) == self._config.batch_size:
                        yield batch()
        except DataError:
            yield batch()  # the shards before the bad one are not lost
            raise
        if keys or complete:
            yield batch()

    def _decoded(
        self, shards: Iterator[Shard]
    ) -> Generator[tuple[Shard, tuple[str, RGBImage] | None]]:
        """Yield (shard, (key, image)) in order, and (shard, None) behind the last of a shard."""
        waiting: deque[tuple[Shard, str, Future[RGBImage] | None]] = deque()
        size = (self._config.image_size, self._config.image_size)

        def next_image() -> Iterator[tuple[Shard, tuple[str, RGBImage] | None]]:
            shard, key, future = waiting.popleft()
            if future is None:
                yield shard, None
                return
            try:
                yield shard, (key, future.result())
            except ImageError as error:
                shard.tally.skipped[error.reason] += 1

        with ThreadPoolExecutor(self._threads) as pool:
            for shard in shards:
                for sample in read_shard(shard.location, shard.tally.skipped):
                    future = pool.submit(
                        decode_image, sample.image, max_pixels=MAX_PIXELS, size=size
                    )
                    waiting.append((shard, sample.key, future))
                    if len(waiting) > self._config.batch_size:
                        yield from next_image()
                waiting.append((shard, "", None))
            while waiting:
                yield from next_image()

    def _write(self, batch: _Batch, label_maps: npt.NDArray[np.uint8]) -> None:
        for shard, key, label_map in zip(batch.shards, batch.keys, label_maps, strict=True):
            tally = shard.tally
            if label_map.flat[0] == IGNORE_LABEL:
                tally.skipped["features not finite"] += 1
                continue
            png = encode_label_map(label_map)
            tally.images += 1
            tally.segments += 1 + int(label_map.max())
            tally.png_bytes += len(png)
            shard.members.append((f"{key}.{MASK}", png))
        for shard in batch.complete:
            self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        path = shard.draft.partial(shard.name)
        write_tar(path, shard.members, compress=True)
        shard.members.clear()
        shard.tally.shard_bytes = path.stat().st_size
        note = shard.tally.note()
        if self._config.out is None:
            shard.draft.commit(shard.name, note)
        else:
            target = join(self._config.out, shard.name)
            store_file(path, target)
            digest = sha256_of(path)
            path.unlink()
            shard.draft.note(shard.name, {**note, "url": target, "sha256": digest})
        shard.claim.release()
        self._total.add(shard.tally)
        if self._total.images + self._total.skipped.total() >= _JUDGED_AFTER:
            self._total.check(self._config.max_skip_rate)
