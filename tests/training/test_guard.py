"""No optimiser steps on numbers that are not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sseg_core.errors import TrainingError
from sseg_core.training.guard import FiniteGuard
from sseg_core.training.step_output import StepOutput


def output(loss: float, finite: tuple[bool, ...] = (True, True)) -> StepOutput:
    scalars = {"loss": torch.tensor(loss), "dice": torch.tensor(0.5)}
    return StepOutput(scalars=scalars, finite=torch.tensor(finite), keys=("good", "bad"))


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_bad_loss_or_gradient_stops_the_run(tmp_path: Path, loss: float, norm: float) -> None:
    """The error names the step and the samples; the file holds all of them and the numbers."""
    guard = FiniteGuard(torch.device("cpu"), tmp_path / "report.json")
    guard.watch(6, output(1.0), torch.tensor(1.0))
    guard.check()
    guard.watch(7, output(loss, (True, False)), torch.tensor(norm))
    with pytest.raises(TrainingError, match=r"at step 7 .*samples: bad\.") as error:
        guard.check()
    assert "precision=fp32" in error.value.hint
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["step"] == 7
    assert report["ranks"][0]["suspects"] == ["bad"]
    assert report["ranks"][0]["keys"] == ["good", "bad"]


def test_a_late_check_names_the_first_bad_step(tmp_path: Path) -> None:
    """Where the host runs ahead, the step that was first to fail is told, not the last."""
    guard = FiniteGuard(torch.device("cpu"), tmp_path / "report.json")
    for step, loss in enumerate([1.0, float("nan"), 1.0, float("inf"), 1.0]):
        guard.watch(step, output(loss), torch.tensor(1.0))
    with pytest.raises(TrainingError, match=r"at step 1 .*samples: good, bad\."):
        guard.check()


def test_a_fused_optimiser_obeys_the_flag(tmp_path: Path) -> None:
    """From the bad step on no weight changes, though the host has not looked yet."""
    guard = FiniteGuard(torch.device("cpu"), tmp_path / "report.json")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    optimizer.found_inf = guard.blocked  # type: ignore[attr-defined]

    def step(number: int, loss: float) -> Tensor:
        weight.grad = torch.full((3,), loss)
        guard.watch(number, output(loss), torch.tensor(loss))
        optimizer.step()
        return weight.detach().clone()

    first = step(0, 1.0)
    assert not torch.equal(first, torch.ones(3))
    assert torch.equal(step(1, float("nan")), first)
    assert torch.equal(step(2, 1.0), first)
    with pytest.raises(TrainingError, match="at step 1"):
        guard.check()
