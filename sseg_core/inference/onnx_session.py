"""A graph of an exported model, run by onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.errors import ArtifactError, ConfigError, SsegError, printable

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_FATAL = 4
"""Only what ends the process is written to the terminal: all else is told by exceptions."""


class OnnxSession:
    """A graph, ready to run.

    Args:
        path: of the graph.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU where onnxruntime has one.

    Raises:
        ArtifactError: this onnxruntime cannot run the graph.
        ConfigError: it has no such device.
        SsegError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, device: str) -> None:
        runtime = _runtime()
        providers = _providers(device, runtime.get_available_providers())
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL
        # By default it would take all cores of the machine, also those that the process may not.
        options.intra_op_num_threads = _threads()
        try:
            session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors have no base of their own
            reason = printable(" ".join(str(error).split()), 200)
            raise ArtifactError(
                f"onnxruntime {runtime.__version__} cannot run {printable(path.name)}: {reason}",
                "Install a newer one: pip install -U onnxruntime",
            ) from error
        if device.startswith("cuda") and _CUDA not in session.get_providers():
            raise _no_cuda(device)
        self._session: Any = session

    def __call__(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
    ) -> list[npt.NDArray[np.float32]]:
        """Return some outputs of the graph by name.

        Args:
            inputs: by name.
            outputs: names.
        """
        results: list[npt.NDArray[np.float32]] = self._session.run(list(outputs), dict(inputs))
        return results


def _runtime() -> Any:
    try:
        return import_module("onnxruntime")  # by name: it has no types
    except ImportError as error:
        raise SsegError(
            "An exported model needs onnxruntime, which is not installed.",
            "Install it: pip install onnxruntime",
        ) from error


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return the providers to try, the CPU last."""
    kind, _, number = device.partition(":")
    is_known = kind == "cuda" and (not number or number.isdecimal())
    if device not in {"auto", "cpu"} and not is_known:
        raise ConfigError(
            f"An exported model runs on cpu or cuda, not on {printable(device)!r}.",
            "Use --device cpu, or leave it out.",
        )
    if is_known and _CUDA not in available:
        raise _no_cuda(device)
    if device == "cpu" or _CUDA not in available:
        return [_CPU]
    return [(_CUDA, {"device_id": number or "0"}), _CPU]


def _no_cuda(device: str) -> ConfigError:
    return ConfigError(
        f"The device {printable(device)!r} is not available to onnxruntime.",
        "Use --device cpu, or install onnxruntime-gpu and what it needs.",
    )


def _threads() -> int:
    """Return as many threads as torch and NumPy take."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
