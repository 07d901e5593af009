"""`sseg pseudomask`: pairs in, label maps out, shard by shard.

Every shard of the pairs gives a shard of the same name that holds `KEY.mask.png`, a label map on
the token grid, for every usable image, in the same order. A rerun of an interrupted command makes
the missing shards only.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import MAX_PIXELS, PseudomaskConfig
from sseg_core.data.images import ImageError, RGBImage, decode_image
from sseg_core.data.shards import MASK, Sample, read_shard, write_tar
from sseg_core.device import pick_device
from sseg_core.errors import DataError
from sseg_core.manifest import sha256_of
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.pseudomask.label_png import encode_label_map
from sseg_core.tracking import SILENT, Progress


@dataclass
class _Tally:
    """What became of the samples of one shard, or of all; noted with each finished shard."""

    images: int = 0
    segments: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> _Tally:
        return cls(note["images"], note["segments"], Counter(note["skipped"]))

    def note(self) -> dict[str, Any]:
        return {"images": self.images, "segments": self.segments, "skipped": dict(self.skipped)}

    def add(self, other: _Tally) -> None:
        self.images += other.images
        self.segments += other.segments
        self.skipped.update(other.skipped)

    def check(self, max_skip_rate: float) -> None:
        bad = self.skipped.total()
        if bad > max_skip_rate * (self.images + bad):
            reason, count = self.skipped.most_common(1)[0]
            raise DataError(
                f"{bad} of {self.images + bad} samples cannot be used, most often because of: "
                f"{reason} ({count}).",
                "Mend the pairs, or allow it with --set max_skip_rate=1.",
            )


def run(
    config: PseudomaskConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Cluster the images of a pairs artifact, and publish a `masks` artifact.

    Stats: `images`, `skipped` by reason, `segments_per_image`, `features`, `masks` (K), `shards`
    (images by shard), `images_per_second` from tar to tar, shards of an earlier run left out.

    Raises:
        ArtifactError: no such pairs, or they were changed; weights that cannot be used.
        ConfigError: unknown features, or an image size that does not suit them.
        DataError: too many samples are unusable, or a file cannot be read or written.
    """
    pairs = store.find(config.pairs, "pairs")
    progress.message(f"pairs {pairs.reference}")
    resolved = config.model_copy(update={"pairs": pairs.reference})
    if config.features not in {"lab", "rgb"} and config.weights is None:
        progress.message(f"weights of {config.features}: from the hub or its cache")
    maker = _ShardMaker(config, pick_device(device), progress)
    described = resolved.model_dump(mode="json")
    if config.weights is not None:
        # Shards of an interrupted run must not be taken up after the weights were changed.
        described["weights_sha256"] = sha256_of(Path(config.weights))
    with store.draft("masks", name or pairs.manifest.name, described, [pairs]) as draft:
        progress.start("pseudomask", pairs.manifest.stats.get("images"), "images")
        total = _Tally()
        shards = {}
        made, begin = 0, time.perf_counter()
        for source in pairs.files(".tar"):
            note = draft.finished.get(source.name)
            if note is None:
                tally = maker.make(source, draft.partial(source.name))
                made += tally.images
                draft.commit(source.name, tally.note())
            else:
                tally = _Tally.from_note(note)
                progress.advance(tally.images)
            total.add(tally)
            total.check(config.max_skip_rate)
            shards[source.name] = tally.images
        if not total.images:
            raise DataError(f"{pairs.reference} holds no usable image.", "Make the pairs again.")
        return draft.publish(
            {
                "images": total.images,
                "skipped": dict(total.skipped),
                "segments_per_image": round(total.segments / total.images, 3),
                "features": config.features,
                "masks": config.masks,
                "images_per_second": round(made / (time.perf_counter() - begin), 2),
                "shards": shards,
            }
        )


class _ShardMaker:
    """Turns one shard of pairs into one shard of masks."""

    def __init__(self, config: PseudomaskConfig, device: torch.device, progress: Progress) -> None:
        self._config = config
        self._device = device
        self._progress = progress
        self._generator = PseudoMaskGenerator(config, device)

    def make(self, source: Path, target: Path) -> _Tally:
        tally = _Tally()
        write_tar(target, self._members(read_shard(source, tally.skipped), tally))
        return tally

    def _members(self, samples: Iterable[Sample], tally: _Tally) -> Iterator[tuple[str, bytes]]:
        images = self._decoded(samples, tally.skipped)
        while batch := list(islice(images, self._config.batch_size)):
            keys = [key for key, _ in batch]
            pixels = torch.from_numpy(np.stack([image for _, image in batch]))
            floats = pixels.to(self._device).permute(0, 3, 1, 2).float() / 255
            for key, label_map in zip(keys, self._generator(floats, keys), strict=True):
                tally.images += 1
                tally.segments += 1 + int(label_map.max())
                yield f"{key}.{MASK}", encode_label_map(label_map)
            self._progress.advance(len(batch))

    def _decoded(
        self, samples: Iterable[Sample], skipped: Counter[str]
    ) -> Iterator[tuple[str, RGBImage]]:
        """Decode one batch ahead in threads, while the batch before is being clustered."""
        waiting: deque[tuple[str, Future[RGBImage]]] = deque()
        size = (self._config.image_size, self._config.image_size)

        def next_image() -> Iterator[tuple[str, RGBImage]]:
            key, future = waiting.popleft()
            try:
                image = future.result()
            except ImageError as error:
                skipped[error.reason] += 1
            else:
                yield key, image

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for sample in samples:
                future = pool.submit(decode_image, sample.image, max_pixels=MAX_PIXELS, size=size)
                waiting.append((sample.key, future))
                if len(waiting) > self._config.batch_size:
                    yield from next_image()
            while waiting:
                yield from next_image()
