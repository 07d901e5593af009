"""Shards in, training batches out: endless, shuffled, and exactly resumable.

Every process of a run (a rank) has its own stream of batches, which its workers make in turn.
`order.py` says which samples are in a batch, `batches.py` makes it.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sseg_core.config import LoaderConfig
from sseg_core.data.batches import BatchMaker, DecodedSample, TokenizerCall
from sseg_core.data.order import (
    UNREADABLE_SHARD,
    SampleOrder,
    ShardSet,
    generator,
    listed,
    shard_length,
)
from sseg_core.errors import DataError, SsegError
from sseg_core.structures import Batch

_CHUNK_SAMPLES = 16_384  # a resumed run reads fewer than this in vain: 2 to 4 seconds
_JUDGED_AFTER = 200  # samples before the share of unusable ones means something


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
    return _received(
        DataLoader(
            stream,
            batch_size=None,
            num_workers=config.workers,
            pin_memory=pin_memory,
            worker_init_fn=leave_signals_to_parent,
            # Of its own: the loader must not draw from the generator that a resumed run restores.
            generator=torch.Generator(),
        )
    )


@dataclass(frozen=True)
class Delivery:
    """What a worker sends: a batch, or the error that ends its stream.

    An error is sent, not raised: torch would bury its sentence in a worker's traceback.
    """

    content: Batch | SsegError

    def pin_memory(self) -> Delivery:
        """Return the same with pinned tensors; the DataLoader calls this."""
        batch = self.content
        if isinstance(batch, SsegError):
            return self
        maps = batch.label_maps
        pinned = replace(
            batch,
            images=batch.images.pin_memory(),
            label_maps=None if maps is None else maps.pin_memory(),
            token_ids=batch.token_ids.pin_memory(),
        )
        return Delivery(pinned)


def _received(loader: DataLoader[Delivery]) -> Iterator[Batch]:
    for delivery in loader:
        if isinstance(delivery.content, SsegError):
            raise delivery.content
        yield delivery.content


class BatchStream(IterableDataset[Delivery]):
    """One worker's share of a rank's batches: every W-th of W workers."""

    def __init__(
        self, order: SampleOrder, maker: BatchMaker, *, start_batch: int, rank: int, world_size: int
    ) -> None:
        self._order = order
        self._maker = maker
        self._start_batch = start_batch
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[Delivery]:
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
                self._check_skip_rate(usable, skipped)
                if not decoded:
                    decoded = substitute = substitute or self._substitute(chunk)
                rng = generator(self._order.seed, "batch", number * parts + part)
                yield self._maker.assemble(decoded, rng, counts)
                counts.clear()

    def _substitute(self, chunk: int) -> list[DecodedSample]:
        """Return one usable sample, the same for a chunk, for a batch that has none."""
        counts: Counter[str] = Counter()
        for item in islice(self._order.chunk(chunk, Counter()), _JUDGED_AFTER):
            if decoded := self._maker.decode([item], counts):
                return decoded
        raise DataError(
            f"{counts.total()} samples in a row are unusable{listed(counts)}.",
            "Make the pairs and masks again: sseg download, sseg pseudomask",
        )

    def _check_skip_rate(self, usable: int, skipped: Counter[str]) -> None:
        bad = skipped.total() - skipped[UNREADABLE_SHARD]
        limit = self._maker.config.max_skip_rate
        if bad + usable >= _JUDGED_AFTER and bad > limit * (bad + usable):
            raise DataError(
                f"{bad} of {bad + usable} samples are unusable, more than max_skip_rate={limit}"
                f" allows{listed(skipped)}.",
                "Make the pairs and masks again, or set loader.max_skip_rate higher.",
            )


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker live through the signals that end or checkpoint its run.

    Schedulers and torch's launcher send them to all processes; a worker that died of one would
    take along the step after which its parent wants to save. Only the parent's own SIGTERM, with
    which torch ends a worker that hangs, counts.

    Args:
        worker: number of the worker.
    """
    # The thread that hands over batches would print a traceback where the parent was killed; errors
    # of the worker itself travel to the parent another way.
    sys.excepthook = _say_nothing
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        name = f"signals of loader worker {worker}"
        threading.Thread(target=_end_when_parent_says, name=name, daemon=True).start()


def _say_nothing(*_: object) -> None:
    pass


def _end_when_parent_says() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.raise_signal(signal.SIGTERM)
