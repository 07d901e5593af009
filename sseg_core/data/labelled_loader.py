"""Labelled images in, batches for a student out: endless, shuffled, and exactly resumable.

`labelled_order.py` says which images are in a batch, `scale_crop.py` what of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from sseg_core.config import CropConfig
from sseg_core.data.delivery import Delivery, delivered
from sseg_core.data.images import ImageError, RGBImage
from sseg_core.data.label_shards import LabelEntry
from sseg_core.data.labelled_order import LabelledOrder
from sseg_core.data.order import listed
from sseg_core.data.scale_crop import scale_crop
from sseg_core.data.skip_rate import JUDGED_AFTER, check_skip_rate
from sseg_core.errors import DataError, SsegError, printable
from sseg_core.structures import LabelledBatch, LabelMap


@dataclass(frozen=True)
class LabelledImages:
    """Images and what a teacher said of them.

    Attributes:
        entries: labels of the images.
        image: returns the [H, W, 3] uint8 RGB image of a key; raises ImageError if it is damaged.
            It travels to the workers, so it must be picklable.
    """

    entries: Sequence[LabelEntry]
    image: Callable[[str], RGBImage]


def make_labelled_loader(
    source: LabelledImages,
    config: CropConfig,
    *,
    batch_size: int,
    seed: int,
    start_batch: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[LabelledBatch]:
    """Return the endless stream of a rank's batches number `start_batch`, `start_batch` + 1, ...

    The batches number i of all ranks, one behind the other, are batch i of a single process with
    batches as large as theirs together, whatever the number of workers. In the place of an image
    that cannot be used, or whose labels cannot, comes another one.

    Args:
        source: images and labels.
        config: crops, least confidence, balance and workers.
        batch_size: images per batch of this rank.
        seed: of the order and the crops.
        start_batch: where to begin, counted in batches of this rank.
        rank: number of this process.
        world_size: number of processes.
        pin_memory: whether the tensors lie where a GPU copies from them directly.

    Raises:
        DataError: there is no image. While iterating: the share of unusable images exceeds
            `config.max_skip_rate`.
    """
    if not source.entries:
        raise DataError("There are no labelled images.", "Make labels with: sseg selftrain")
    order = LabelledOrder(source.entries, seed, config.balance)
    stream = LabelledStream(
        source,
        config,
        order,
        batch_size=batch_size,
        start_batch=start_batch,
        rank=rank,
        world_size=world_size,
    )
    return delivered(stream, config.workers, pin_memory=pin_memory)


class LabelledStream(IterableDataset[Delivery[LabelledBatch]]):
    """One worker's share of a rank's batches: every W-th of W workers."""

    def __init__(
        self,
        source: LabelledImages,
        config: CropConfig,
        order: LabelledOrder,
        *,
        batch_size: int,
        start_batch: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._source = source
        self._config = config
        self._order = order
        self._batch_size = batch_size
        self._start_batch = start_batch
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[Delivery[LabelledBatch]]:
        """Yield the batches of this worker; the DataLoader takes one of each worker in turn."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        usable, skipped = 0, Counter[str]()
        try:
            for number in count(self._start_batch + first, step):
                batch = self._batch(number)
                usable += self._batch_size
                skipped.update(batch.skipped)
                check_skip_rate(
                    skipped.total(), usable, skipped, self._config.max_skip_rate, "labels"
                )
                yield Delivery(batch)
        except SsegError as error:
            yield Delivery(error)

    def _batch(self, number: int) -> LabelledBatch:
        size, side = self._batch_size, self._config.crop_size
        first = (number * self._world_size + self._rank) * size
        skipped: Counter[str] = Counter()
        images_BSS3 = np.empty((size, side, side, 3), np.uint8)
        maps_BSS = np.empty((size, side, side), np.int16)
        keys = []
        for i in range(size):
            place = first + i
            key, image, labels = self._usable(place, skipped)
            rng = self._order.crop_generator(place)
            images_BSS3[i], maps_BSS[i] = scale_crop(image, labels, self._config, rng)
            keys.append(key)
        return LabelledBatch(
            # In memory the colours of a pixel stay together, as they are decoded and cropped.
            images=torch.from_numpy(images_BSS3).permute(0, 3, 1, 2),
            label_maps=torch.from_numpy(maps_BSS),
            keys=tuple(keys),
            skipped=dict(skipped),
        )

    def _usable(self, place: int, skipped: Counter[str]) -> tuple[str, RGBImage, LabelMap]:
        """Return key, image and labels at a place, or of the first drawn instead that will do."""
        before = skipped.copy()
        indices = chain([self._order.index(place)], self._order.instead(place))
        for index in islice(indices, JUDGED_AFTER):
            entry = self._source.entries[index]
            try:
                image = self._source.image(entry.key)
                return entry.key, image, self._labels(entry, image)
            except ImageError as error:
                skipped[error.reason] += 1
        raise DataError(
            f"{JUDGED_AFTER} images in a row are unusable{listed(skipped - before)}.",
            "Make the labels again: sseg selftrain",
        )

    def _labels(self, entry: LabelEntry, image: RGBImage) -> LabelMap:
        if image.shape[:2] != (entry.height, entry.width):
            (height, width) = image.shape[:2]
            problem = (
                f"is of {entry.width} x {entry.height} pixels, the image of {width} x {height}"
            )
            raise ImageError("bad label", problem, f"The label of {printable(entry.key)}")
        return entry.read(self._config.min_confidence)
