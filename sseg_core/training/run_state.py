"""Where a run stands: all that a step checkpoint holds beside the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sseg_core.checkpoint import load_step, save_step
from sseg_core.distributed import all_of_ranks, of_first_rank, rank, world_size
from sseg_core.errors import TrainingError


@dataclass
class RunState:
    """Counters of a run.

    Attributes:
        step: optimiser steps that are done.
        skipped: samples passed over, by reason, on all ranks.
        best_score: mIoU of the best probe, -1 before the first.
        best_step: its step.
    """

    step: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    best_score: float = -1.0
    best_step: int = 0


class Snapshots:
    """Writes and reads the step checkpoints of a run.

    Every rank holds the whole model and optimiser, so the first one writes them, with the
    generators of all ranks; the run may go on with any number of processes. The folder must be
    visible to every rank.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: AveragedModel | None,
        scaler: torch.amp.GradScaler | None,
        device: torch.device,
        keep: int,
    ) -> None:
        self._folder = folder
        self._model, self._optimizer = model, optimizer
        self._ema, self._scaler = ema, scaler
        self._device, self._keep = device, keep

    def save(self, state: RunState, watch: Mapping[str, Any]) -> None:
        """Write a step checkpoint; every rank must call it.

        Raises:
            OSError: it cannot be written, raised on the first rank.
        """
        generators = all_of_ranks(self._generators())
        skipped = sum(all_of_ranks(state.skipped), Counter[str]())
        if rank() != 0:
            return
        saved: dict[str, Any] = {
            "step": state.step,
            "skipped": dict(skipped),
            "best": [state.best_score, state.best_step],
            "watch": dict(watch),
            "optimizer": self._optimizer.state_dict(),
            "generators": generators,
        }
        if self._ema is not None:
            saved["ema"] = self._ema.state_dict()
        if self._scaler is not None:
            saved["scaler"] = self._scaler.state_dict()
        save_step(self._folder, state.step, self._model, saved, self._keep)

    def resume(self) -> tuple[RunState, dict[str, Any], int] | None:
        """Load the newest step checkpoint into model, optimiser and generators.

        Returns:
            the counters, the state of the watch, and how many processes wrote it; None where
            there is no checkpoint.

        Raises:
            TrainingError: the ranks do not see the same checkpoint.
        """
        saved = load_step(self._folder, self._model)
        found = None if saved is None else int(saved["step"])
        if of_first_rank(found) != found:
            raise TrainingError(
                f"Rank {rank()} sees another step checkpoint in {self._folder} than rank 0.",
                "All machines of a run must share the --store.",
            )
        if saved is None:
            return None
        self._optimizer.load_state_dict(saved["optimizer"])
        if self._ema is not None:
            self._ema.load_state_dict(saved["ema"])
        if self._scaler is not None:
            self._scaler.load_state_dict(saved["scaler"])
        generators: list[dict[str, Tensor]] = saved["generators"]
        if rank() < len(generators):
            self._restore(generators[rank()])
        # The first rank goes on counting for all.
        skipped = Counter(saved["skipped"]) if rank() == 0 else Counter[str]()
        score, step = saved["best"]
        state = RunState(found or 0, skipped, best_score=score, best_step=step)
        return state, saved["watch"], len(generators)

    def _generators(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def _restore(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and self._device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self._device)


def world_change(before: int) -> str | None:
    """Return a warning where a run goes on with another number of processes, else None."""
    if before == world_size():
        return None
    return (
        f"warning: the run was saved by {before} processes and goes on with {world_size()}: the "
        "batch, the schedule and the mathematics stay, but from here on other samples come in "
        "another order with other crops."
    )
