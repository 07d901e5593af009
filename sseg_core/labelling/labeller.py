"""Labels made shard by shard, shared out among whoever works on the same draft.

A shard is some consecutive images. Whoever is free claims the next shard that nobody makes and
nobody has finished, so that any number of processes and machines share the work; the shard of a
killed one is made again by another. What a shard holds does not depend on who makes it.

While the device labels a batch, threads read the next images and another one encodes the labels
of the last.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sseg_core.artifacts import SharedDraft
from sseg_core.data.images import ImageError, RGBImage
from sseg_core.data.label_shards import LabelShardWriter
from sseg_core.device import available_cores
from sseg_core.labelling.images import UnlabelledImages
from sseg_core.labelling.tally import Tally
from sseg_core.labelling.teacher import Labels, Teacher
from sseg_core.tracking import Progress

_POLL_S = 1.0  # between looks at the shards that others make
_READERS = 4  # at most; labelling takes longer than reading
_WRITE_BEHIND = 2  # batches
_SHOWN = 3


@dataclass(frozen=True)
class Report:
    """What this process did: images, and the seconds it took, without those it waited."""

    images: int = 0
    seconds: float = 0.0


def shards_of(keys: Sequence[str], size: int) -> dict[str, Sequence[str]]:
    """Return the keys of every shard, by its name."""
    starts = range(0, len(keys), size)
    return {
        f"labels-{number:05d}.tar": keys[start : start + size]
        for number, start in enumerate(starts)
    }


class Labeller:
    """Labels images in one process.

    Args:
        draft: where the shards go, and whose claims share them out.
        shards: the keys of every shard, by its name.
        images: to be labelled.
        teacher: that labels them.
        batch_size: images that it sees at once.
        progress: told of every image, of those that others label too.
    """

    def __init__(
        self,
        *,
        draft: SharedDraft,
        shards: Mapping[str, Sequence[str]],
        images: UnlabelledImages,
        teacher: Teacher,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self._draft = draft
        self._shards = shards
        self._images = images
        self._teacher = teacher
        self._batch_size = batch_size
        self._progress = progress
        self._told: set[str] = set()

    def run(self) -> Report:
        """Make what is missing, and wait for what others make, until all is finished by whomever.

        Raises:
            DataError: the teacher fails, or a shard cannot be written.
        """
        images, seconds, waits = 0, 0.0, False
        while missing := self._missing():
            begin = time.perf_counter()
            done = [count for name in missing if (count := self._claim_and_make(name)) is not None]
            if done:
                images += sum(done)
                seconds += time.perf_counter() - begin
                continue
            if not waits:
                more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                self._progress.message(
                    "waiting for shards that other processes make: "
                    f"{', '.join(missing[:_SHOWN])}{more}"
                )
                waits = True
            time.sleep(_POLL_S)
        return Report(images, seconds)

    def _missing(self) -> list[str]:
        """Return the names of the shards that nobody has finished, none if all is published."""
        if not self._draft.is_open():
            return []
        self._draft.refresh()
        finished = self._shards.keys() & self._draft.finished.keys()
        for name in finished - self._told:
            self._progress.advance(len(self._shards[name]))
        self._told |= finished
        return [name for name in self._shards if name not in finished]

    def _claim_and_make(self, name: str) -> int | None:
        """Return the number of images labelled; None where there was nothing to do."""
        claim = self._draft.claim(name)
        if claim is None:
            return None
        try:
            tally = self._make(name)
        finally:
            claim.release()
        self._told.add(name)
        return tally.images

    def _make(self, name: str) -> Tally:
        """Make a shard and its index and note them as finished; the tar's note counts for both."""
        tally = Tally()
        tar = self._draft.scratch / name
        with LabelShardWriter(tar) as shard, ThreadPoolExecutor(1) as encoder:
            writing: deque[Future[None]] = deque()
            for batch in self._batches(self._shards[name], tally):
                keys, images = zip(*batch, strict=True)
                labels = self._teacher.label(keys, images)
                writing.append(encoder.submit(_write, shard, tally, keys, labels))
                if len(writing) > _WRITE_BEHIND:
                    writing.popleft().result()
                self._progress.advance(len(keys))
            for future in writing:
                future.result()
        for path in (tar.with_suffix(".jsonl"), tar):
            path.replace(self._draft.partial(path.name))
        self._draft.commit(index_of(name))
        self._draft.commit(name, tally.note())
        return tally

    def _batches(
        self, keys: Sequence[str], tally: Tally
    ) -> Iterator[Sequence[tuple[str, RGBImage]]]:
        """Yield batches of the images that can be read, in order; count the others."""
        images = self._readable(keys, tally)
        while batch := tuple(islice(images, self._batch_size)):
            yield batch

    def _readable(self, keys: Sequence[str], tally: Tally) -> Iterator[tuple[str, RGBImage]]:
        threads = min(_READERS, available_cores())
        waiting: deque[tuple[str, Future[RGBImage]]] = deque()

        def first() -> Iterator[tuple[str, RGBImage]]:
            key, future = waiting.popleft()
            try:
                yield key, future.result()
            except ImageError as error:
                tally.skipped[error.reason] += 1
                self._progress.message(f"skipped: {error.message}")
                self._progress.advance()

        with ThreadPoolExecutor(threads) as pool:
            for key in keys:
                waiting.append((key, pool.submit(self._images.image, key)))
                if len(waiting) > self._batch_size + threads:
                    yield from first()
            while waiting:
                yield from first()


def index_of(shard: str) -> str:
    """Return the name of the index that lies beside a shard."""
    return Path(shard).with_suffix(".jsonl").name


def _write(
    shard: LabelShardWriter, tally: Tally, keys: Sequence[str], labels: Sequence[Labels]
) -> None:
    for key, its_labels in zip(keys, labels, strict=True):
        shard.write(key, its_labels.label_map, its_labels.confidence)
        tally.count(its_labels)
