"""Which sample comes when: the shards of all sets in one endless order that the seed decides.

The shards of a set, permuted anew in each pass, form one endless row of samples. Chunk c takes
from the row of each set its share of `chunk_samples`, by weight, where chunk c - 1 ended; so the
position of a chunk is known without reading those before it. The parts (each worker of each rank)
take the chunks in turn. So every sample of a set comes about equally often, no two parts read the
same stretch of a row, any number of parts and shards will do, and a run that resumes reads past
less than a chunk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import count, islice
from math import floor

from webdataset.filters import shuffle

from sseg_core.data.shards import Sample, read_masks, read_shard, read_shard_with_masks
from sseg_core.data.urls import ShardError, shard_size
from sseg_core.errors import DataError

UNREADABLE_SHARD = "unreadable shard"
"""What a shard that was passed over is counted as; it is no sample."""

Item = tuple[Sample, bytes | None]
"""A sample, and its mask PNG unless masks are made online."""

_MEASURED_SAMPLES = 2048  # of a pairs shard, to tell how many it holds


@dataclass(frozen=True)
class ShardSet:
    """The shards of one data set, and how much of it a run sees.

    Attributes:
        shards: location of each pairs shard, and of its masks shard; None where masks are made
            online. Paths or URLs.
        weight: share of the samples relative to other sets, above 0.
        name: for messages.
    """

    shards: tuple[tuple[str, str | None], ...]
    weight: float
    name: str


@dataclass(frozen=True)
class SampleOrder:
    """The chunks of samples, each a function of its number.

    Attributes:
        sets: what is mixed.
        shard_lengths: for each set, the samples of a shard, see `shard_length`.
        seed: of the order.
        chunk_samples: samples in a chunk.
        shuffle_buffer: samples held for shuffling, of all sets together.
    """

    sets: tuple[ShardSet, ...]
    shard_lengths: tuple[int, ...]
    seed: int
    chunk_samples: int
    shuffle_buffer: int

    def chunk(self, number: int, skipped: Counter[str]) -> Iterator[Item]:
        """Yield the samples of one chunk, shuffled.

        What cannot be used is passed over and counted in `skipped`, as in `read_shard`. So is a
        shard that cannot be read; the next one of its set takes its place.

        Raises:
            DataError: no shard of a set can be read, or none holds a sample.
        """
        left = [wanted for _, wanted in self.shares(number)]
        rows = [
            self._row(index, number, start, wanted, skipped)
            for index, (start, wanted) in enumerate(self.shares(number))
        ]
        rng = generator(self.seed, "mix", number)
        for _ in range(self.chunk_samples):
            (index,) = rng.choices(range(len(rows)), left)
            left[index] -= 1
            yield next(rows[index])

    def shares(self, number: int) -> list[tuple[int, int]]:
        """Return for each set where its part of a chunk begins in its row, and how long it is."""
        before, after = self._taken(number), self._taken(number + 1)
        return [(start, end - start) for start, end in zip(before, after, strict=True)]

    def _taken(self, chunks: int) -> list[int]:
        """Return the samples of each set in the first chunks: by weight, rounded down.

        What rounding leaves goes to the largest set. A chunk holds more samples than the square
        of the number of sets, so that set never gets less than none.
        """
        taken = [floor(chunks * self.chunk_samples * share) for share in self._shares]
        taken[self._shares.index(max(self._shares))] += chunks * self.chunk_samples - sum(taken)
        return taken

    @cached_property
    def _shares(self) -> list[Fraction]:
        weights = [Fraction(a_set.weight) for a_set in self.sets]
        return [weight / sum(weights) for weight in weights]

    def _row(
        self, index: int, chunk: int, start: int, wanted: int, skipped: Counter[str]
    ) -> Iterator[Item]:
        """Yield `wanted` samples of a set from `start` of its row, shuffled within each pass.

        If all shards have the estimated length, this begins where the chunk before ends; where
        they differ a little, so do the numbers of times that samples come.
        """
        shards = self.sets[index].shards
        shard, offset = divmod(start, self.shard_lengths[index])
        first_pass, shard = divmod(shard, len(shards))
        buffer = max(1, round(self.shuffle_buffer * self._shares[index]))
        failures: list[ShardError] = []
        empty_passes = 0
        for a_pass in count(first_pass):
            order = list(shards)
            generator(self.seed, "pass", a_pass).shuffle(order)
            items = islice(_read(order[shard:], offset, skipped, failures), wanted)
            given = 0
            rng = generator(self.seed, "chunk", chunk, a_pass)
            for item in shuffle(buffer, initial=buffer, rng=rng)(items):
                given += 1
                yield item
            wanted -= given
            if not wanted:
                return
            # The first pass may begin behind the last sample; two in a row mean there is none.
            empty_passes = 0 if given else empty_passes + 1
            if empty_passes > 1:
                raise _nothing_read(self.sets[index], failures, skipped)
            shard = offset = 0


def shard_length(a_set: ShardSet) -> int:
    """Return about how many samples a shard of the set holds, judged by the first that has some.

    The first thousands of a longer shard tell by their share of its bytes: where masks are made
    online, reading all of it, maybe from afar, would hold up the start.
    """
    for pairs, masks in a_set.shards:
        try:
            if masks is not None:
                length = sum(1 for _ in read_masks(masks))
            else:
                length = _pairs_length(pairs)
        except ShardError:
            continue
        if length:
            return length
    return 1


def _pairs_length(shard: str) -> int:
    samples, used = 0, 0
    for sample in islice(read_shard(shard), _MEASURED_SAMPLES):
        samples += 1
        # A tar pads each member to whole blocks and puts one before it; the captions take one.
        used += 512 * (len(sample.image) // 512 + 4)
    size = shard_size(shard) if samples == _MEASURED_SAMPLES else None
    return samples if size is None else max(samples, samples * size // used)


def generator(seed: int, *purpose: str | int) -> random.Random:
    """Return the generator of one purpose, the same in every process."""
    return random.Random(f"{seed} {purpose}")  # noqa: S311 - shuffling, not cryptography


def listed(skipped: Counter[str]) -> str:
    """Return the reasons, the commonest first, in brackets."""
    parts = ", ".join(f"{reason}: {number}" for reason, number in skipped.most_common())
    return f" ({parts})" if parts else ""


def _read(
    shards: Sequence[tuple[str, str | None]],
    offset: int,
    skipped: Counter[str],
    failures: list[ShardError],
) -> Iterator[Item]:
    """Yield the samples of the shards one after the other, from `offset` of the first."""
    for pairs, masks in shards:
        items: Iterator[Item]
        if masks is None:
            items = ((sample, None) for sample in read_shard(pairs, skipped))
        else:
            items = iter(read_shard_with_masks(pairs, masks, skipped))
        try:
            yield from islice(items, offset, None)
        except ShardError as error:
            skipped[UNREADABLE_SHARD] += 1
            failures[1:] = [error]  # the first, and the last
        offset = 0


def _nothing_read(a_set: ShardSet, failures: list[ShardError], skipped: Counter[str]) -> DataError:
    shards = f"None of the {len(a_set.shards)} shards of {a_set.name}"
    if failures:
        first = failures[0]
        return DataError(
            f"{shards} gives a sample; {first.location} cannot be read: {first.reason}.",
            first.hint,
        )
    if a_set.shards[0][1] is None:
        return DataError(f"{shards} holds a sample{listed(skipped)}.", "Make the pairs again.")
    return DataError(
        f"{shards} holds a sample with a mask{listed(skipped)}.",
        "Make the masks again: sseg pseudomask",
    )
