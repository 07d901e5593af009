"""How a running stage tells what it is doing: progress, metrics on disk, throughput.

The library never prints. A stage reports to a `Progress`; the command line draws it with Rich,
a notebook can pass its own, and `SILENT` is the default.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol


class Progress(Protocol):
    """What a stage tells about itself while it runs."""

    def start(self, task: str, total: int | None, unit: str) -> None:
        """A task of `total` units (None: not known) begins; it replaces the one before."""

    def advance(self, count: int = 1, **fields: str) -> None:
        """`count` more units are done; `fields` are short values to show beside the bar."""

    def message(self, text: str) -> None:
        """One line for the user, such as which artifact was taken."""


class _Silent:
    def start(self, task: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, count: int = 1, **fields: str) -> None:
        pass

    def message(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
"""A progress that shows nothing."""


class MetricsLog:
    """Appends records to `metrics.jsonl`, one JSON object a line, flushed at once.

    A resumed run first drops the records at and after the step it resumes from, so the file
    always reads as one uninterrupted run.
    """

    def __init__(self, path: Path, *, first_step: int = 0) -> None:
        kept = [record for record in read_metrics(path) if int(record["step"]) < first_step]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, float]) -> None:
        """Append one record; it must hold `step`."""
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the records of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


class Throughput:
    """Units per second over the last updates, so that a slow start is soon forgotten."""

    def __init__(self, window: int = 50) -> None:
        self._marks: deque[tuple[float, int]] = deque([(time.perf_counter(), 0)], maxlen=window)

    def update(self, count: int) -> None:
        """`count` more units are done."""
        self._marks.append((time.perf_counter(), self._marks[-1][1] + count))

    def per_second(self) -> float:
        """Return the rate, 0 before the first update."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin) if end > begin else 0.0
