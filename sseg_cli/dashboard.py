"""What stages draw that train or score: one panel that is redrawn in place."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sseg_cli.console import is_live, show_progress, stderr, visible

if TYPE_CHECKING:
    from sseg_core.tracking import Progress

TRAIN = "train"
"""The task whose numbers the panel shows; any other one is a line below them."""
REFRESHES_PER_SECOND = 2
"""Each takes 3 to 5 ms of the process that trains."""
LABELS = {
    "contrastive": "contrastive",
    "dice": "dice",
    "focal": "focal",
    "cross_entropy": "cross-entropy",
    "auxiliary": "auxiliary",
    "accuracy": "accuracy",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "scale": "temp. scale",
    "images_s": "images/s",
    "wait": "data wait",
    "memory": "memory",
    "miou": "probe mIoU",
}
"""Fields of `advance` beside the loss, in this order, as they are called on the panel."""
LEVELS = "".join(map(chr, range(0x2581, 0x2589)))
"""Blocks of one eighth to eight eighths of a line."""
ASCII_LEVELS = "_.-=*#"
SMALLEST_LOSS = 1e-3
"""The curve is logarithmic, and all losses below look the same on it."""
COLUMN_WIDTH = 34
"""Cells that a name and its value take at the least."""
MARK_INTERVAL_S = 0.5
MARKS = 240
"""The time left follows from the pace since the oldest mark: of the last two minutes or more."""


@contextmanager
def show_training() -> Iterator[Progress]:
    """Yield a `Progress` that draws on stderr: a panel, or plain lines where it is no tty."""
    console = stderr()
    if not is_live(console):
        with show_progress() as progress:
            yield progress
        return
    dashboard = Dashboard(console)
    # Loader processes are forked from this one. What they write must not go through the console,
    # whose lock they may have inherited locked, so Rich does not get to redirect any stream.
    with Live(
        get_renderable=dashboard.render,
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield dashboard


class Dashboard:
    """A `Progress` that only takes notes; `render` draws them, a few times a second.

    Args:
        console: where messages go, and whose size the panel fits.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._train: _Task | None = None
        self._current: _Task | None = None
        self._log_losses: list[float] = []
        # A refresh comes from a thread of its own. It holds the lock of the console then, so
        # nothing is printed under this one.
        self._lock = threading.Lock()

    def start(self, task: str, total: int | None, unit: str) -> None:
        """A task begins; training that goes on after another task keeps its numbers."""
        with self._lock:
            begun = _Task(task, total, unit)
            if task == TRAIN:
                if self._train is not None:
                    begun.go_on_from(self._train)
                self._train = begun
            self._current = begun

    def advance(self, count: int = 1, **fields: str) -> None:
        """`count` more units are done; `loss`, if given, is one more point of its curve."""
        with self._lock:
            assert self._current is not None
            self._current.advance(count, fields)
            if self._current is self._train and "loss" in fields:
                loss = float(fields["loss"])
                if math.isfinite(loss):
                    self._log_losses.append(math.log(max(loss, SMALLEST_LOSS)))

    def message(self, text: str) -> None:
        """Print one line above the panel, where it stays."""
        style = "yellow" if text.startswith("warning") else "dim"
        self._console.print(Text(visible(text), style=style))

    def render(self) -> RenderableType:
        """Return the panel as of now."""
        with self._lock:
            parts: list[RenderableType] = []
            width, height = self._console.width - 4, self._console.height - 3
            if self._train is not None:
                parts += [self._train.line(named=False), self._train.times()]
                if "loss" in self._train.fields:
                    parts.append(_loss_line(self._train.fields["loss"], self._log_losses))
                rows = height - len(parts) - 1
                parts += _facts(self._train.fields, max(1, width // COLUMN_WIDTH), rows)
            if self._current is not None and self._current is not self._train:
                parts.append(self._current.line(named=True))
        if not parts:
            return ""
        title = Text(TRAIN, style="bold") if self._train is not None else None
        return Panel(Group(*parts), title=title, title_align="left", border_style="bright_black")


class _Task:
    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = visible(name), total, visible(unit)
        self.done = 0
        self.fields: dict[str, str] = {}
        self.begin = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        self._pace_s: float | None = None

    def go_on_from(self, before: _Task) -> None:
        self.begin, self.fields, self._pace_s = before.begin, before.fields, before._pace_s

    def advance(self, count: int, fields: Mapping[str, str]) -> None:
        self.done += count
        self.fields.update(fields)
        now = time.monotonic()
        # The first advance is no work where a run resumes, so the pace counts from behind it.
        if not self._marks or now - self._marks[-1][0] >= MARK_INTERVAL_S:
            self._marks.append((now, self.done))
            (begin, first), (end, last) = self._marks[0], self._marks[-1]
            if last > first:
                self._pace_s = (end - begin) / (last - first)

    def line(self, *, named: bool) -> Table:
        """Return the bar; of a `named` task with its name and its fields."""
        grid = Table.grid(padding=(0, 1), expand=True)
        cells: list[RenderableType] = []
        if named:
            grid.add_column(no_wrap=True, overflow="ellipsis")
            cells.append(Text(self.name, style="bold"))
        grid.add_column(ratio=1)
        cells.append(
            ProgressBar(
                total=self.total,
                completed=self.done,
                style="bright_black",
                complete_style="cyan",
                finished_style="green",
                pulse_style="cyan",
            )
        )
        grid.add_column(no_wrap=True, justify="right")
        total = "" if self.total is None else f"/{self.total}"
        cells.append(Text(f"{self.done}{total} {self.unit}"))
        if named and self.fields:
            grid.add_column(no_wrap=True, overflow="ellipsis")
            labels = {**LABELS, "miou": "mIoU"}  # of this task, whichever it is
            shown = " ".join(f"{labels.get(k, k)} {v}" for k, v in self.fields.items())
            cells.append(Text(visible(shown), style="cyan"))
        elif not named and self.total:
            grid.add_column(no_wrap=True, justify="right", min_width=5)
            cells.append(Text(f"{100 * self.done // self.total} %"))
        grid.add_row(*cells)
        return grid

    def times(self) -> Text:
        """Return how long the task has been running, and how long it will."""
        text = f"elapsed {_clock(time.monotonic() - self.begin)}"
        if self._pace_s is not None and self.total is not None and self.done < self.total:
            text += f"  left {_clock((self.total - self.done) * self._pace_s)}"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


class _Sparkline:
    """A curve one line high, as wide as there is room."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = ASCII_LEVELS if options.ascii_only else LEVELS
        yield Text(_curve(self._values, options.max_width, levels), style="cyan", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


def _curve(values: Sequence[float], width: int, levels: str) -> str:
    """Return at most `width` characters of `levels`, low to high, one for equal runs of values."""
    count = min(width, len(values))
    if count == 0:
        return ""
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, range_ = min(means), max(max(means) - min(means), 1e-9)
    return "".join(levels[round((mean - low) / range_ * (len(levels) - 1))] for mean in means)


def _loss_line(loss: str, log_losses: Sequence[float]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(ratio=1)
    shown = Text(visible(loss), style="bold")
    grid.add_row(Text("loss", style="bold"), shown, _Sparkline(log_losses))
    return grid


def _facts(fields: Mapping[str, str], columns: int, rows: int) -> list[Table]:
    """Return names and values in columns, to be read downwards; the last are left out if need be.

    Args:
        fields: as `advance` was given them.
        columns: side by side.
        rows: at most.
    """
    facts = [(label, visible(fields[name])) for name, label in LABELS.items() if name in fields]
    facts = facts[: max(rows, 0) * columns]
    if not facts:
        return []
    rows = math.ceil(len(facts) / columns)
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in range(columns):
        grid.add_column(style="cyan", no_wrap=True, width=max(map(len, LABELS.values())))
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for row in range(rows):
        cells = [text for fact in facts[row::rows] for text in fact]
        grid.add_row(*(Text(cell) for cell in cells))
    return [grid]


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
