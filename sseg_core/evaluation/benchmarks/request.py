"""What a benchmark is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sseg_core.artifacts import ArtifactStore
from sseg_core.tracking import SILENT, Progress


@dataclass(frozen=True, eq=False)
class BenchmarkRequest:
    """Which part of a benchmark is wanted, and where its files are.

    Attributes:
        root: the folder that holds the benchmark as it was published.
        split: of the benchmark, such as val.
        limit: take only the first images of the split; None takes all.
        store: where a benchmark that takes long to read keeps what it has read.
        progress: is told of that reading.
        write: whether it may write there; a dry run does not.
    """

    root: Path
    split: str
    limit: int | None
    store: ArtifactStore
    progress: Progress = SILENT
    write: bool = True
