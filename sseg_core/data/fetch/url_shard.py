"""A shard of a URL list in the making: what has come lies on the disk, out of order."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.duplicates import look_of
from sseg_core.data.fetch.fitted_image import fit_image
from sseg_core.data.fetch.outcomes import FETCHED, Outcome, write_outcomes
from sseg_core.data.fetch.tally import Skipped, Tally
from sseg_core.data.fetch.url_list import UrlRow
from sseg_core.data.shards import Sample, cannot_write, pack_sample, read_shard, write_tar
from sseg_core.errors import printable

_IN_MEMORY_BYTES = 2**24


@dataclass(frozen=True)
class ShardTask:
    """What is to be made; it travels to a worker process.

    Attributes:
        name: of the shard, `NNNNNN.tar`.
        first: position of its first row in the list.
        rows: of the list.
        tar: path to write the shard to.
        table: path to write its outcomes to.
        earlier: the same shard as it is, and its outcomes, where failed rows are tried again.
    """

    name: str
    first: int
    rows: Sequence[UrlRow]
    tar: Path
    table: Path
    earlier: tuple[Path, tuple[Outcome, ...]] | None = None


class UrlShard:
    """A shard in the making.

    Samples are written in the order of the list when all have come, so that the shard depends on
    nothing but what the servers sent.
    """

    def __init__(self, task: ShardTask, config: DownloadConfig) -> None:
        self.task = task
        self._config = config
        self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(task.tar.parent))  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}
        self._outcomes = [
            Outcome(key_of(task.first + index), row.url, "pending")
            for index, row in enumerate(task.rows)
        ]
        if task.earlier is not None:
            self._take_up(*task.earlier)

    def wanted(self) -> list[int]:
        """Return the indices of the rows that are to be fetched."""
        return [i for i, outcome in enumerate(self._outcomes) if outcome.outcome == "pending"]

    def fail(self, index: int, reason: str) -> None:
        """Note that a row cannot be had."""
        self._outcomes[index] = replace(self._outcomes[index], outcome=reason)

    def take(self, index: int, body: bytes) -> None:
        """Fit the file that came for a row, and keep it.

        Raises:
            ImageError: it is no usable image.
            DataError: the disk is full.
        """
        image, pixels = fit_image(body, self._config)
        self._keep(index, image)
        self._outcomes[index] = replace(
            self._outcomes[index],
            outcome=FETCHED,
            sha256=hashlib.sha256(body).hexdigest()[:16],
            look=look_of(pixels),
        )

    def finish(self) -> Tally:
        """Write the shard and its table.

        Raises:
            DataError: the disk is full, or a file cannot be written for another reason.
        """
        tally = Tally()
        write_tar(self.task.tar, self._members(tally))
        write_outcomes(self.task.table, self._outcomes)
        self._spool.close()
        return tally

    def _members(self, tally: Tally) -> Iterator[tuple[str, bytes]]:
        for index, outcome in enumerate(self._outcomes):
            if index not in self._places:
                tally.add_sample(Skipped(outcome.outcome, printable(outcome.url)))
                continue
            start, length = self._places[index]
            self._spool.seek(start)
            image = self._spool.read(length)
            sample = Sample(outcome.key, image, (self.task.rows[index].caption,))
            tally.add_sample(sample)
            yield from pack_sample(sample, "jpg")

    def _keep(self, index: int, image: bytes) -> None:
        try:
            start = self._spool.seek(0, 2)  # which writes what is buffered
            self._spool.write(image)
        except OSError as error:
            raise cannot_write(self.task.tar, error) from error
        self._places[index] = (start, len(image))

    def _take_up(self, tar: Path, outcomes: Sequence[Outcome]) -> None:
        """Start from what an earlier run fetched."""
        indices = {outcome.key: index for index, outcome in enumerate(outcomes)}
        for sample in read_shard(tar):
            index = indices[sample.key]
            self._keep(index, sample.image)
            self._outcomes[index] = outcomes[index]


def key_of(position: int) -> str:
    """Return the key of the sample at a position of a list."""
    return f"{position:09d}"
