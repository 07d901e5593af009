"""What a run tells: metrics.jsonl, TensorBoard, warnings and the fields of the progress display.

Of several ranks the first one tells. A disk that is full takes no more records, and the run goes
on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image

from sseg_core.evaluation.metrics.memory import PeakMemory
from sseg_core.tracking import MetricsLog, Progress, Throughput, open_tensorboard
from sseg_core.training.watch import LossWatch

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
SAMPLES = "samples"

TERMS = ("loss", "contrastive", "dice", "focal", "cross_entropy", "auxiliary", "accuracy")
"""Losses and the like of a step, by the names that runs have for them."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Recorder:
    """The log of a run, for the rank that keeps it.

    Args:
        folder: the artifact in the making.
        first_step: where the run resumes; later records of the file are dropped.
        watch: warns of numbers that look wrong.
        device: whose memory is told.
        progress: what is drawn while the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first_step: int,
        watch: LossWatch,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.watch = watch
        self._folder = folder
        self._progress = progress
        self._memory = PeakMemory(device)
        self._throughput = Throughput()
        self._waiting = Throughput()
        self._warned_of_disk = False
        self._open = ExitStack()
        self._metrics = self._open.enter_context(
            MetricsLog(folder / METRICS, first_step=first_step)
        )
        self._board = open_tensorboard(folder / TENSORBOARD, first_step)
        if self._board is not None:
            self._open.callback(self._board.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.keep(self._open.close)

    def step_done(self, images: int, waited_s: float) -> None:
        """A step over `images` images is done, of which `waited_s` went by waiting for data."""
        self._throughput.update(images)
        self._waiting.update(waited_s)
        self._progress.advance(1)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, draw them, and warn of what looks wrong."""
        rate = self._throughput.per_second()
        wait, memory = self._waiting.per_second(), self._memory.megabytes()
        speed = {
            "images_per_second": round(rate, 2),
            "data_wait": round(wait, 4),
            "memory_mb": round(memory, 1),
        }
        self._write({"step": step, **values, **speed})
        for sentence in self.watch.update(step, values):
            self._progress.message(f"warning: {sentence}")
        shown = {name: f"{values[name]:.3f}" for name in TERMS if name in values}
        if "logit_scale" in values:
            shown["scale"] = f"{values['logit_scale']:.1f}"
        self._progress.advance(
            0,
            **shown,
            grad_norm=f"{values['grad_norm']:.2f}",
            lr=f"{values['lr']:.2e}",
            images_s=f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}",
            wait=f"{100 * wait:.0f} %",
            memory=f"{memory / 1000:.1f} GB",
        )

    def record_probe(self, step: int, scores: Mapping[str, float], best: float) -> None:
        """Write what a probe measured after step number `step`; `best` is the best so far."""
        self._write({"step": step, **scores})
        self._progress.advance(0, miou=f"{scores['probe_miou']:.1f} (best {best:.1f})")

    def picture(self, step: int, sheet: Image.Image) -> None:
        """Keep pictures of held-out images, as a file and in TensorBoard."""
        path = self._folder / SAMPLES / f"step-{step:08d}.jpg"

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            sheet.save(path, quality=90)
            if self._board is not None:
                self._board.image("samples", sheet, step)

        self.keep(write)

    def resume_clock(self) -> None:
        """Leave out of the rates what went by since the last step, such as a probe."""
        self._throughput.restart()
        self._waiting.restart()

    def per_second(self) -> float:
        """Return the images per second of the last steps."""
        return self._throughput.per_second()

    def keep(self, write: Callable[[], Any]) -> bool:
        """Call `write`; where the disk is full say so once. Returns whether it was written."""
        try:
            write()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if not self._warned_of_disk:
                self._progress.message(
                    f"warning: the disk of {self._folder} is full; the run goes on, and its last "
                    "whole checkpoint stays. Make room to keep more."
                )
            self._warned_of_disk = True
            return False
        return True

    def _write(self, record: Mapping[str, float]) -> None:
        def write() -> None:
            self._metrics.write(record)
            if self._board is not None:
                self._board.scalars(record)

        self.keep(write)
