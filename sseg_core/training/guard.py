"""Keeps the optimiser from stepping on numbers that are not finite, on any rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sseg_core.distributed import all_of_ranks, max_over_ranks, rank
from sseg_core.errors import TrainingError
from sseg_core.training.step_output import StepOutput

_SHOWN_KEYS = 8


@dataclass(frozen=True)
class _Seen:
    step: int
    scalars: Mapping[str, Tensor]
    grad_norm: Tensor
    finite: Tensor
    keys: tuple[str, ...]


class FiniteGuard:
    """Watches loss and gradient norm of every step, and ends the run where one is not finite.

    On a GPU the host does not wait for the numbers. They set `blocked`, a flag on the device that
    stays set and that a fused optimiser obeys as `found_inf`: from the offending step on no weight
    changes, and `check` finds out at the next line of the log. Elsewhere `check` comes before the
    optimiser's step.
    """

    def __init__(self, device: torch.device, report: Path) -> None:
        self.blocked = torch.zeros((), device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._seen: list[_Seen] = []
        self._report = report

    def watch(self, step: int, output: StepOutput, grad_norm: Tensor) -> None:
        """Take in the numbers of a step whose gradients are summed and clipped."""
        bad = ~(output.scalars["loss"] + grad_norm).isfinite()
        self.blocked.copy_(max_over_ranks(torch.maximum(self.blocked, bad.float())))
        is_first = (self.blocked > 0) & (self._first < 0)
        self._first.copy_(torch.where(is_first, step, self._first))
        self._seen.append(_Seen(step, output.scalars, grad_norm, output.finite, output.keys))

    def check(self) -> None:
        """Raise where a step since the last check was not finite; every rank must call it.

        Raises:
            TrainingError: names the step and the samples; all are in the report file.
        """
        first = int(self._first)
        if first < 0:
            self._seen.clear()
            return
        seen = next(seen for seen in self._seen if seen.step == first)
        finite = seen.finite.tolist()
        own = {
            "rank": rank(),
            **{name: float(value) for name, value in seen.scalars.items()},
            "grad_norm": float(seen.grad_norm),
            "suspects": [k for k, good in zip(seen.keys, finite, strict=True) if not good],
            "keys": list(seen.keys),
        }
        ranks = all_of_ranks(own)
        if rank() == 0:
            text = json.dumps({"step": first, "ranks": ranks}, indent=1)
            self._report.write_text(text, encoding="utf-8")
        raise _error(first, ranks, self._report)


def _error(step: int, ranks: list[dict[str, object]], report: Path) -> TrainingError:
    def all_keys(field: str) -> list[str]:
        return [str(key) for own in ranks for key in own[field]]  # type: ignore[attr-defined]

    keys, suspects = all_keys("keys"), all_keys("suspects")
    # Where only the gradient overflowed, no sample stands out.
    named = suspects or keys
    shown = ", ".join(named[:_SHOWN_KEYS]) + (", ..." if len(named) > _SHOWN_KEYS else "")
    whose = f" on ranks {_bad_ranks(ranks)}" if len(ranks) > 1 else ""
    return TrainingError(
        f"The loss or its gradient is not finite at step {step}{whose} "
        f"(loss {ranks[0]['loss']}, gradient norm {ranks[0]['grad_norm']}); samples: {shown}.",
        f"All {len(keys)} keys are in {report}. Lower optim.lr, or set precision=fp32; "
        "the run resumes from its last step checkpoint.",
    )


def _bad_ranks(ranks: list[dict[str, object]]) -> str:
    bad = [own["rank"] for own in ranks if own["suspects"]] or [own["rank"] for own in ranks]
    return ", ".join(str(number) for number in bad)
