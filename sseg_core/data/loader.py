"""Shards in, training batches out: endless, shuffled, and exactly resumable.

Every process of a run (a rank) has its own stream of batches, which its workers make in turn.
`order.py` says which samples are in a batch, `batches.py` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice

from torch.utils.data import IterableDataset, get_worker_info

from sseg_core.config import LoaderConfig
from sseg_core.data.batches import BatchMaker, DecodedSample, TokenizerCall
from sseg_core.data.delivery import Delivery, delivered
from sseg_core.data.order import (
    UNREADABLE_SHARD,
    SampleOrder,
    ShardSet,
    generator,
    listed,
    shard_length,
)
from sseg_core.data.skip_rate import JUDGED_AFTER, check_skip_rate
from sseg_core.errors import DataError, SsegError
from sseg_core.structures import Batch

_CHUNK_SAMPLES = 16_384  # a resumed run reads fewer than this in vain: 2 to 4 seconds


def make_loader(
    sets: Sequence[ShardSet],
    config: LoaderConfig,
    *,
    batch_size: int,
    seed: int,
    start_batch: int,
    tokenizer: TokenizerCall,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Return the endless stream of a rank's batches number `start_batch`, `start_batch` + 1, ...

    Batch i of a rank is a function of the shards, the configuration, the batch size, the seed and
    the number of ranks alone. In place of an unusable sample another one is repeated, so that the
    batches keep their size and their numbers. A shard that cannot be read is passed over and
    counted in `Batch.skipped`, as unusable samples are.

    Args:
        sets: shards, with or without masks, all alike; `Batch.label_maps` is None without.
        config: sizes, caption words, shuffling and workers.
        batch_size: samples per batch.
        seed: of the order and the choice of captions.
        start_batch: where to begin, counted in batches of this rank.
        tokenizer: texts to token ids.
        rank: number of this process.
        world_size: number of processes.
        pin_memory: whether the tensors lie where a GPU copies from them directly.

    Raises:
        DataError: there is no shard. While iterating: no shard of a set can be read or none
            holds a sample, masks belong to other images, or the share of unusable samples exceeds
            `config.max_skip_rate`.
        ConfigError: no package for the shards' URLs is installed.
    """
    if not all(a_set.shards for a_set in sets) or not sets:
        raise DataError("There are no shards to train on.", "Make masks with: sseg pseudomask")
    assert len({masks is None for a_set in sets for _, masks in a_set.shards}) == 1
    batches_per_chunk = max(1, _CHUNK_SAMPLES // batch_size)
    order = SampleOrder(
        sets=tuple(sets),
        shard_lengths=tuple(map(shard_length, sets)),
        seed=seed,
        chunk_samples=batches_per_chunk * batch_size,
        shuffle_buffer=config.shuffle_buffer,
    )
    stream = BatchStream(
        order,
        BatchMaker(config, batch_size, tokenizer),
        start_batch=start_batch,
        rank=rank,
        world_size=world_size,
    )
    return delivered(stream, config.workers, pin_memory=pin_memory)


class BatchStream(IterableDataset[Delivery[Batch]]):
    """One worker's share of a rank's batches: every W-th of W workers."""

    def __init__(
        self, order: SampleOrder, maker: BatchMaker, *, start_batch: int, rank: int, world_size: int
    ) -> None:
        self._order = order
        self._maker = maker
        self._start_batch = start_batch
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[Delivery[Batch]]:
        """Yield the batches of this worker; the DataLoader takes one of each worker in turn."""
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        # The first worker is asked first, so after a resume the workers change their parts.
        first = self._start_batch + (0 if worker is None else worker.id)
        try:
            for batch in self._batches(first, workers):
                yield Delivery(batch)
        except SsegError as error:
            yield Delivery(error)

    def _batches(self, first: int, workers: int) -> Iterator[Batch]:
        usable, skipped = 0, Counter[str]()
        size = self._maker.batch_size
        batches_per_chunk = self._order.chunk_samples // size
        # Whose part, of those of all workers of all ranks, and how far it is.
        part, done = (first % workers) * self._world_size + self._rank, first // workers
        parts = workers * self._world_size
        for round_number in count(done // batches_per_chunk):
            chunk = round_number * parts + part
            start = round_number * batches_per_chunk
            substitute: list[DecodedSample] = []
            counts: Counter[str] = Counter()
            samples = self._order.chunk(chunk, counts)
            for number in range(start, start + batches_per_chunk):
                items = list(islice(samples, size))
                if number < done:
                    counts.clear()  # an earlier run reported these
                    continue
                decoded = self._maker.decode(items, counts)
                usable += len(decoded)
                skipped.update(counts)
                bad = skipped.total() - skipped[UNREADABLE_SHARD]
                check_skip_rate(
                    bad, usable, skipped, self._maker.config.max_skip_rate, "pairs and masks"
                )
                if not decoded:
                    decoded = substitute = substitute or self._substitute(chunk)
                rng = generator(self._order.seed, "batch", number * parts + part)
                yield self._maker.assemble(decoded, rng, counts)
                counts.clear()

    def _substitute(self, chunk: int) -> list[DecodedSample]:
        """Return one usable sample, the same for a chunk, for a batch that has none."""
        counts: Counter[str] = Counter()
        for item in islice(self._order.chunk(chunk, Counter()), JUDGED_AFTER):
            if decoded := self._maker.decode([item], counts):
                return decoded
        raise DataError(
            f"{counts.total()} samples in a row are unusable{listed(counts)}.",
            "Make the pairs and masks again: sseg download, sseg pseudomask",
        )
