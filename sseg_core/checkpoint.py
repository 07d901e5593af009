"""Weights and training state on disk. The only file that calls torch.save and torch.load.

Weights are safetensors, never pickles. Training state (optimiser, generators, position) lives in
the scratch folder of the run as `step-NNNNNNNN/`, each written beside its place and renamed, so
that a checkpoint that is half written is never picked up.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sseg_core.errors import ArtifactError

WEIGHTS = "model.safetensors"
"""Name of the weight file in a checkpoint artifact and in a step checkpoint."""

_STATE = "train_state.pt"
_STEP = re.compile(r"step-([0-9]{8})")


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the parameters and buffers of `model` as safetensors."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    # Written by Python, so that a full disk is an OSError that names the file.
    path.write_bytes(safetensors.torch.save(tensors))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of `save_weights` into `model`, every tensor accounted for.

    Raises:
        ArtifactError: the file is unreadable, or its tensors are not the model's.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a readable safetensors file.", "It may be truncated; make it again."
        ) from error
    load_tensors(model, tensors, source=str(path))


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `tensors` into `model`; names and shapes must be exactly the model's.

    Raises:
        ArtifactError: a tensor is missing, left over or of another shape; the first is named.
    """
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise ArtifactError(f"{source} lacks the tensor {name!r}: it is of another model.")
        if tensors[name].shape != tensor.shape:
            raise ArtifactError(
                f"{name!r} has shape {list(tensors[name].shape)} in {source}, but the model "
                f"needs {list(tensor.shape)}."
            )
    for name in tensors:
        if name not in expected:
            raise ArtifactError(
                f"{source} holds the tensor {name!r}, which the model does not have."
            )
    model.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a weight file from elsewhere: safetensors, or a .pth that holds no code.

    Of a training state the model is taken: what stands under `model`, `state_dict` or `teacher`.

    Raises:
        ArtifactError: the file is missing or unreadable, or there is no table of tensors in it.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # DINO's full checkpoints hold their command line as well, which is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"There is no weight file {path}.", "Check the path.") from error
    except Exception as error:  # torch.load raises whatever pickle does
        raise ArtifactError(
            f"{path} is not a readable weight file.", "Give a .safetensors or a plain .pth file."
        ) from error
    for level in ("model", "state_dict", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(level), dict):
            loaded = loaded[level]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise ArtifactError(f"{path} does not hold a plain table of tensors.")
    return loaded


def save_step(folder: Path, step: int, model: nn.Module, state: dict[str, Any], keep: int) -> None:
    """Write `folder/step-NNNNNNNN` by one rename, then delete all but the last `keep`.

    Raises:
        OSError: it cannot be written, for example to a full disk; nothing of it is left, and the
            checkpoints before it are untouched.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_weights(model, partial / WEIGHTS)
        stream = io.BytesIO()
        torch.save(state, stream)
        (partial / _STATE).write_bytes(stream.getbuffer())
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)


def load_step(folder: Path, model: nn.Module) -> dict[str, Any] | None:
    """Load the newest step checkpoint of `folder` into `model` and return its training state.

    Returns None where there is none. A checkpoint that cannot be read is passed over for the
    one before it.
    """
    for step in reversed(_steps(folder)):
        path = folder / f"step-{step:08d}"
        try:
            state = torch.load(path / _STATE, map_location="cpu", weights_only=True)
            load_weights(model, path / WEIGHTS)
        except Exception:  # noqa: BLE001, S112 - damaged in any way: the one before serves
            continue
        return dict(state)
    return None


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_STEP.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)
