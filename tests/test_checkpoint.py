"""Weights and training state on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from sseg_core.checkpoint import (
    load_step,
    load_weights,
    read_tensors,
    save_step,
    save_weights,
)
from sseg_core.errors import ArtifactError


def model(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3))


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Parameters and buffers survive the file."""
    a, b = model(), model()
    a(torch.randn(5, 4))
    save_weights(a, tmp_path / "w.safetensors")
    load_weights(b, tmp_path / "w.safetensors")
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name])


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    """A tensor of another shape, a missing one and one too many each stop the load."""
    path = tmp_path / "w.safetensors"
    save_weights(model(5), path)
    with pytest.raises(ArtifactError, match=r"'0\.weight' has shape \[3, 5\]"):
        load_weights(model(), path)
    save_weights(nn.Sequential(nn.Linear(4, 3)), path)
    with pytest.raises(ArtifactError, match="lacks the tensor '1"):
        load_weights(model(), path)
    save_weights(nn.Sequential(*model(), nn.Linear(3, 3)), path)
    with pytest.raises(ArtifactError, match="holds the tensor '2"):
        load_weights(model(), path)


def test_a_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    """Half a safetensors file, or none, is an ArtifactError."""
    path = tmp_path / "w.safetensors"
    save_weights(model(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="not a readable safetensors"):
        load_weights(model(), path)
    with pytest.raises(ArtifactError, match="not a readable safetensors"):
        load_weights(model(), tmp_path / "gone.safetensors")


def test_step_checkpoints_are_kept_in_number(tmp_path: Path) -> None:
    """Only the last `keep` stay, and the newest is what is loaded."""
    a = model()
    for step in (1, 2, 3):
        save_step(tmp_path, step, a, {"step": step}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert load_step(tmp_path, model()) == {"step": 3}


def test_a_damaged_step_is_passed_over(tmp_path: Path) -> None:
    """With the newest checkpoint cut short the one before serves; with none the answer is None."""
    assert load_step(tmp_path / "none", model()) is None
    for step in (1, 2):
        save_step(tmp_path, step, model(), {"step": step}, keep=2)
    newest = tmp_path / "step-00000002/train_state.pt"
    newest.write_bytes(newest.read_bytes()[:40])
    assert load_step(tmp_path, model()) == {"step": 1}


def test_a_half_written_step_is_never_picked_up(tmp_path: Path) -> None:
    """A folder under its partial name is no checkpoint, and the next save removes it."""
    partial = tmp_path / ".step-00000009.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert load_step(tmp_path, model()) is None
    save_step(tmp_path, 9, model(), {"step": 9}, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000009"]


class Evil:
    """Runs a command when it is unpickled by a careless loader."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    """A .pth that holds more than tensors is not executed."""
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ArtifactError, match="not a readable weight file"):
        read_tensors(tmp_path / "evil.pth")


def test_weight_files_from_elsewhere_are_read(tmp_path: Path) -> None:
    """Plain .pth tables, and the model or the teacher of a training state."""
    tensors = {"a": torch.ones(2)}
    torch.save(tensors, tmp_path / "a.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "b.pth")
    command_line = argparse.Namespace(arch="vit_small", lr=0.1)
    torch.save({"model": {"state_dict": tensors}, "args": command_line}, tmp_path / "d.pth")
    other = {"a": torch.zeros(2)}
    torch.save({"student": other, "teacher": tensors, "args": command_line}, tmp_path / "e.pth")
    for name in ("a.pth", "b.pth", "d.pth", "e.pth"):
        assert read_tensors(tmp_path / name)["a"].tolist() == [1, 1]
    torch.save({"a": 3}, tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match="plain table of tensors"):
        read_tensors(tmp_path / "c.pth")
    with pytest.raises(ArtifactError, match="no weight file"):
        read_tensors(tmp_path / "gone.pth")
