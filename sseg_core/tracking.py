"""How a running stage tells what it is doing: progress, metrics on disk, TensorBoard, throughput.

The library never prints. A stage reports to a `Progress`; the command line draws it with Rich,
a notebook can pass its own, and `SILENT` is the default.
"""

from __future__ import annotations

import io
import itertools
import json
import time
from collections import deque
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the command line imports this module, and needs no Pillow to start
    from PIL import Image


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


_TAGS = {
    "loss": "loss/total",
    "contrastive": "loss/contrastive",
    "dice": "loss/dice",
    "focal": "loss/focal",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "logit_scale": "optim/logit_scale",
    "images_per_second": "speed/images_per_second",
    "data_wait": "speed/data_wait",
    "memory_mb": "speed/memory_mb",
    "probe_miou": "probe/miou",
    "probe_accuracy": "probe/accuracy",
}
"""Fields of `metrics.jsonl` as TensorBoard groups them; others keep their name."""


class TensorBoardLog:
    """Writes what TensorBoard shows, each event at once, so that a kill loses nothing.

    A resumed run begins another file in the same folder, which hides what the earlier ones hold
    of the step it resumes from and of later ones. The files are written here rather than by
    torch's SummaryWriter: its thread does not survive a full disk, and half an event at which it
    stopped would hide all that follow.

    Args:
        folder: of the event files, made if need be.
        first_step: where the run begins or resumes.

    Raises:
        ImportError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # By name, for types must not depend on whether an optional package is installed.
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self._records: Any = import_module("tensorboard.summary.writer.record_writer")
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder by name, and knows them by `tfevents`.
        paths = (folder / f"events.out.tfevents.{number:06d}" for number in itertools.count())
        self._stream = next(path for path in paths if not path.exists()).open("xb", buffering=0)
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=start)

    def scalars(self, record: Mapping[str, float]) -> None:
        """Add a record as `metrics.jsonl` has it; it must hold `step`."""
        values = [
            self._summaries.Summary.Value(tag=_TAGS.get(name, name), simple_value=value)
            for name, value in record.items()
            if name != "step"
        ]
        self._summarise(int(record["step"]), values)

    def image(self, tag: str, picture: Image.Image, step: int) -> None:
        """Add a picture of a step."""
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=90)
        image = self._summaries.Summary.Image(
            height=picture.height,
            width=picture.width,
            colorspace=3,  # RGB
            encoded_image_string=jpeg.getvalue(),
        )
        self._summarise(step, [self._summaries.Summary.Value(tag=tag, image=image)])

    def close(self) -> None:
        """Close the file; all events are in it already."""
        self._stream.close()

    def _summarise(self, step: int, values: list[Any]) -> None:
        self._write(step=step, summary=self._summaries.Summary(value=values))

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        record = io.BytesIO()
        self._records.RecordWriter(record).write(event.SerializeToString())
        end = self._stream.tell()
        rest = record.getbuffer()
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError:
            self._stream.truncate(end)
            self._stream.seek(end)
            raise


def open_tensorboard(folder: Path, first_step: int) -> TensorBoardLog | None:
    """Return a log for TensorBoard, see `TensorBoardLog`; None where it is not installed."""
    try:
        return TensorBoardLog(folder, first_step)
    except ImportError:
        return None


class Throughput:
    """Units per second over the last updates, so that a slow start is soon forgotten."""

    def __init__(self, window: int = 50) -> None:
        self._marks: deque[tuple[float, float]] = deque([(time.perf_counter(), 0)], maxlen=window)

    def update(self, count: float) -> None:
        """`count` more units are done."""
        self._marks.append((time.perf_counter(), self._marks[-1][1] + count))

    def restart(self) -> None:
        """Leave out of the rate what went by since the last update, such as a pause."""
        pause = time.perf_counter() - self._marks[-1][0]
        later = [(moment + pause, units) for moment, units in self._marks]
        self._marks = deque(later, maxlen=self._marks.maxlen)

    def per_second(self) -> float:
        """Return the rate, 0 before the first update."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin) if end > begin else 0.0
