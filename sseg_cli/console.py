"""How things look on a terminal: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from sseg_core.errors import printable

if TYPE_CHECKING:
    from sseg_core.artifacts import Artifact
    from sseg_core.config import Config
    from sseg_core.tracking import Progress

PLAIN_INTERVAL_S = 10.0
"""Seconds between progress lines where stderr is not a terminal."""


def visible(text: object) -> str:
    """Return a text that may come from a stranger as one line without control characters."""
    return printable(text, limit=None)


def stdout() -> Console:
    """Return a console on standard output, made when it is used so that tests can redirect it."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """Return a console on standard error."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def show_error(message: str, hint: str) -> None:
    """Print one sentence, and the next step below it."""
    console = stderr()
    console.print(Text.assemble(("Error: ", "bold red"), visible(message)))
    if hint:
        console.print(Text.assemble(("Hint: ", "bold"), visible(hint)))


def show_note(text: str) -> None:
    """Print one line of information to stderr."""
    stderr().print(Text(visible(text), style="dim"))


def is_live(console: Console) -> bool:
    """Return whether a display can be redrawn in place: a terminal that moves its cursor."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield a `Progress` that draws on stderr: a live bar, or plain lines where it is no tty."""
    console = stderr()
    if not is_live(console):
        yield _PlainProgress()
        return
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}", style="cyan"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        # A forked process that prints would wait for ever for a lock of the thread that draws.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        yield _LiveProgress(bar)


class _LiveProgress:
    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._fields: dict[str, str] = {}

    def start(self, task: str, total: int | None, unit: str) -> None:
        if self._task is not None:
            self._bar.stop_task(self._task)
        self._fields = {}
        self._task = self._bar.add_task(f"{task} ({unit})", total=total, shown="")

    def advance(self, count: int = 1, **fields: str) -> None:
        assert self._task is not None
        self._fields.update(fields)
        # What fits beside the bar and the times; all numbers are in metrics.jsonl.
        shown = _shown(self._fields, room=self._bar.console.width - 52)
        self._bar.update(self._task, advance=count, shown=shown)

    def message(self, text: str) -> None:
        self._bar.console.print(Text(visible(text), style="dim"))


class _PlainProgress:
    def __init__(self) -> None:
        self._task, self._unit, self._done = "", "", 0
        self._total: int | None = None
        self._fields: dict[str, str] = {}
        self._begin = self._last = 0.0
        self._first: int | None = None

    def start(self, task: str, total: int | None, unit: str) -> None:
        self._task, self._unit, self._done, self._total = task, unit, 0, total
        self._fields = {}
        self._begin = self._last = time.monotonic()
        self._first = None

    def advance(self, count: int = 1, **fields: str) -> None:
        self._done += count
        self._fields.update(fields)
        now = time.monotonic()
        if self._first is None:
            # No work where a run resumes, so the pace counts from behind it.
            self._begin, self._first = now, self._done
        if self._done == self._total or now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            total = f"/{self._total}" if self._total is not None else ""
            left = ""
            if self._total and self._first < self._done < self._total:
                pace = (now - self._begin) / (self._done - self._first)
                seconds = pace * (self._total - self._done)
                left = f", {seconds:.0f} s left"
            shown = f" [{_shown(self._fields)}]" if self._fields else ""
            self.message(f"{self._task}: {self._done}{total} {self._unit}{shown}{left}")

    def message(self, text: str) -> None:
        show_note(text)


def _shown(fields: Mapping[str, str], room: int | None = None) -> str:
    """Return the fields as text, the last ones left out where there is no room."""
    parts = [f"{name} {value}" for name, value in fields.items()]
    while room is not None and parts and len(" ".join(parts)) > room:
        parts.pop()
    return " ".join(parts)


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """Return what `--json` prints of an artifact: where it is, and what the stage measured."""
    m = artifact.manifest
    place = {"artifact": str(artifact.path), "kind": m.kind, "name": m.name, "version": m.version}
    return {**place, **m.stats}


def show_json(value: Mapping[str, Any]) -> None:
    """Print exactly one JSON object to stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def show_artifact(artifact: Artifact, next_step: str, *, as_json: bool) -> None:
    """Print a finished artifact: as JSON, or its numbers, its place and the next command."""
    if as_json:
        show_json(artifact_json(artifact))
        return
    console = stdout()
    rows = {k: v for k, v in artifact.manifest.stats.items() if not isinstance(v, dict | list)}
    console.print(facts_table(rows))
    for reason, count in artifact.manifest.stats.get("skipped", {}).items():
        console.print(Text(f"  skipped {count}: {visible(str(reason))}", style="yellow"))
    for kind, count in artifact.manifest.stats.get("duplicates", {}).items():
        if count:
            console.print(Text(f"  {count} {kind} duplicates", style="yellow"))
    show_place(artifact)
    if next_step:
        console.print(Text.assemble("next: ", (next_step, "bold")))


def show_place(artifact: Artifact) -> None:
    """Print the kind, reference and folder of an artifact on one line."""
    stdout().print(
        Text.assemble(
            (artifact.manifest.kind, "green"),
            " ",
            (artifact.reference, "bold"),
            f" in {artifact.path}",
        ),
        soft_wrap=True,
    )


def facts_table(rows: Mapping[str, Any]) -> Table:
    """Return a borderless table of names and values."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(style="cyan", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        shown = _number(value) if isinstance(value, float) else visible(str(value))
        table.add_row(name.replace("_", " "), Text(shown))
    return table


def _number(value: float) -> str:
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"


def show_plan(stage: str, config: Config, inputs: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a command would do: its resolved inputs and its whole configuration."""
    values = config.model_dump(mode="json")
    if as_json:
        show_json({"stage": stage, "inputs": dict(inputs), "config": values})
        return
    console = stdout()
    console.print(Text(f"{stage}: this would run", style="bold"))
    console.print(facts_table(inputs))
    console.print_json(json.dumps(values))
