"""The loop: batches in, optimiser steps, and all that happens between them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from sseg_core.checkpoint import save_weights
from sseg_core.config import RunConfig
from sseg_core.distributed import mean_over_ranks, of_first_rank, rank, world_size
from sseg_core.errors import DataError, Stopped
from sseg_core.tracking import Progress
from sseg_core.training.guard import FiniteGuard
from sseg_core.training.learner import Learner
from sseg_core.training.optimizer import learning_rate, set_learning_rate
from sseg_core.training.probe import Probe
from sseg_core.training.recorder import Recorder
from sseg_core.training.run_state import RunState, Snapshots
from sseg_core.training.signals import Signals
from sseg_core.training.step_output import StepOutput

BEST = "best.safetensors"
"""Weights of the best probe, beside those that are published."""


class LoadedBatch(Protocol):
    """What the loop asks of a batch."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Samples passed over since the last batch, by reason."""
        ...


@dataclass(frozen=True)
class Course:
    """How long a run is, and where it leaves its files.

    Attributes:
        config: of the run.
        steps: optimiser steps in all.
        warmup_steps: of these, with a rising learning rate.
        micro_batches: batches of the loader that make one step.
        artifact: folder of the artifact in the making.
        scratch: folder of what is not published.
    """

    config: RunConfig
    steps: int
    warmup_steps: int
    micro_batches: int
    artifact: Path
    scratch: Path


class Loop:
    """Trains from the step in `state` to the last one; every rank runs its own."""

    def __init__(
        self,
        *,
        course: Course,
        learner: Learner,
        snapshots: Snapshots,
        state: RunState,
        recorder: Recorder | None,
        probe: Probe | None,
        progress: Progress,
        device: torch.device,
    ) -> None:
        self.course = course
        self.config = course.config
        self.learner = learner
        self.snapshots = snapshots
        self.state = state
        self.recorder = recorder
        self.probe = probe
        self.progress = progress
        self.guard = FiniteGuard(device, course.scratch / "nonfinite.json")
        # The host of a GPU runs ahead of it; only an fp16 scaler makes it wait anyway.
        self.runs_ahead = device.type == "cuda" and learner.scaler is None
        if self.runs_ahead:
            learner.optimizer.found_inf = self.guard.blocked  # type: ignore[attr-defined]

    def run(self, batches: Iterator[LoadedBatch]) -> None:
        """Train to the last step.

        Raises:
            TrainingError: the loss or a gradient is not finite; the optimiser has not stepped.
            Stopped: SIGTERM came; a checkpoint is written.
            KeyboardInterrupt: Ctrl-C came; a checkpoint is written.
        """
        self._announce()
        self.learner.model.train()
        with Signals() as signals:
            while self.state.step < self.course.steps:
                self._step(batches)
                step, last = self.state.step, self.course.steps
                if self._due(self.config.eval_every) or self._due(self.config.samples_every):
                    self._look()
                asked = signals.take()
                if step < last and (
                    asked.save
                    or asked.stop
                    or asked.interrupt
                    or step % self.config.checkpoint_every == 0
                ):
                    self._save()
                if asked.interrupt and step < last:
                    raise KeyboardInterrupt
                if asked.stop and step < last:
                    raise Stopped(
                        f"Stopped by SIGTERM after step {step} of {last}.",
                        "A checkpoint is written; the same command goes on from it.",
                    )

    def _step(self, batches: Iterator[LoadedBatch]) -> None:
        """Fetch a batch and take one optimiser step on it."""
        step, learner = self.state.step, self.learner
        begin = time.perf_counter()
        micro_batches = list(islice(batches, self.course.micro_batches))
        waited_s = time.perf_counter() - begin
        for batch in micro_batches:
            self.state.skipped.update(batch.skipped)
        optim = self.config.optim
        rate = learning_rate(step, self.course.steps, self.course.warmup_steps, optim)
        set_learning_rate(learner.optimizer, rate)
        learner.optimizer.zero_grad(set_to_none=True)
        output = learner.backward(micro_batches)
        if learner.scaler is not None:
            learner.scaler.unscale_(learner.optimizer)
        limit = optim.clip_norm or math.inf
        grad_norm = nn.utils.clip_grad_norm_(learner.model.parameters(), limit)
        # An fp16 scaler expects overflows of the gradient and passes over such steps itself.
        watched = grad_norm if learner.scaler is None else torch.zeros_like(grad_norm)
        self.guard.watch(step, output, watched)
        is_logged = step % self.config.log_every == 0 or step == self.course.steps - 1
        if is_logged or not self.runs_ahead:
            self.guard.check()
        if learner.scaler is None:
            learner.optimizer.step()
        else:
            learner.scaler.step(learner.optimizer)
            learner.scaler.update()
        if learner.ema is not None:
            learner.ema.update_parameters(learner.model)
        self.state.step += 1
        if self.recorder is not None:
            self.recorder.step_done(len(output.keys) * world_size(), waited_s)
        if is_logged:
            self._log(step, output, grad_norm, rate)

    def _log(self, step: int, output: StepOutput, grad_norm: torch.Tensor, rate: float) -> None:
        values = mean_over_ranks(torch.stack([*output.scalars.values(), grad_norm])).tolist()
        named = dict(zip([*output.scalars, "grad_norm"], values, strict=True))
        if self.recorder is not None:
            self.recorder.record(step, {**named, "lr": rate})

    def _look(self) -> None:
        """Score and draw held-out images on the first rank, while the others wait."""
        # As in the log: the number of the last step that is done. A run that resumes after it
        # keeps what is logged below it.
        step = self.state.step - 1
        self.guard.check()
        if self.probe is not None and self.recorder is not None:
            try:
                self._look_with(self.probe, self.recorder, step)
            except DataError as error:
                self._announce()
                self.progress.message(f"warning: no probe after step {step}: {error.message}")
            self.recorder.resume_clock()
        best = of_first_rank((self.state.best_score, self.state.best_step))
        self.state.best_score, self.state.best_step = best

    def _look_with(self, probe: Probe, recorder: Recorder, step: int) -> None:
        result = self.learner.result
        if self._due(self.config.eval_every):
            scores = probe.score(result, self.progress)
            self._announce()
            if scores["probe_miou"] > self.state.best_score:
                path = self.course.artifact / BEST
                if recorder.keep(lambda: save_weights(result, path)):
                    self.state.best_score = scores["probe_miou"]
                    self.state.best_step = step
            recorder.record_probe(step, scores, self.state.best_score)
        if self._due(self.config.samples_every):
            recorder.picture(step, probe.pictures(result))

    def _save(self) -> None:
        """Write a step checkpoint; on a full disk the run goes on with the one before."""
        self.guard.check()
        if self.recorder is None:
            self.snapshots.save(self.state, {})
            return
        watch = self.recorder.watch.state_dict()
        self.recorder.keep(lambda: self.snapshots.save(self.state, watch))

    def _announce(self) -> None:
        if rank() == 0:
            self.progress.start("train", self.course.steps, "steps")
            self.progress.advance(self.state.step)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.course.steps)
