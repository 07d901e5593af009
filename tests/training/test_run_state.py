"""Step checkpoints hold all that a run needs to go on as if nothing had happened."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sseg_core.training.run_state import RunState, Snapshots


class Parts:
    """A small model with dropout, its optimiser and average, and the checkpoints of both."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        self.ema = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
        )
        self.snapshots = Snapshots(
            folder, model=self.model, optimizer=self.optimizer, ema=self.ema, scaler=None,
            device=torch.device("cpu"), keep=keep,
        )  # fmt: skip

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.rand(8, 4)).square().sum().backward()
        self.optimizer.step()
        self.ema.update_parameters(self.model)

    def weights(self) -> list[torch.Tensor]:
        return [*self.model.state_dict().values(), *self.ema.state_dict().values()]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Weights, average, optimiser and generator: four steps equal two, a save and two more."""
    whole = Parts(tmp_path)
    for _ in range(2):
        whole.step()
    state = RunState(2, Counter({"no mask": 3}), best_score=41.5, best_step=1)
    whole.snapshots.save(state, {"values": [1.0]})
    for _ in range(2):
        whole.step()
    resumed = Parts(tmp_path)
    torch.manual_seed(99)
    found = resumed.snapshots.resume()
    assert found is not None
    assert (found[0], found[1], found[2]) == (state, {"values": [1.0]}, 1)
    for _ in range(2):
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.weights(), resumed.weights(), strict=True))


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path) -> None:
    """A fresh folder, or one with half a checkpoint only, starts at the beginning."""
    (tmp_path / ".step-00000004.partial").mkdir()
    assert Parts(tmp_path).snapshots.resume() is None


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes out, nothing half written stays, and the run resumes from the one before."""
    parts = Parts(tmp_path)
    parts.snapshots.save(RunState(5), {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sseg_core.checkpoint.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        parts.snapshots.save(RunState(6), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    found = parts.snapshots.resume()
    assert found is not None
    assert found[0].step == 5


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    """As many as the configuration says, the newest ones."""
    parts = Parts(tmp_path, keep=2)
    for step in (1, 2, 3):
        parts.snapshots.save(RunState(step), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
