"""Which device a stage or a model runs on, and what it can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sseg_core.errors import ConfigError

if TYPE_CHECKING:  # not every stage needs it, and it takes seconds
    import torch


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {name!r} is not available.", "Use --device cpu, or leave it out."
        ) from error
    return device


def is_fast_at_bf16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bf16, so that it is faster than fp32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_one_thread() -> None:
    """Let torch compute in the calling thread alone, as in the threads of a pool."""
    import torch

    torch.get_num_threads()  # torch sets the default of a new thread when it is first used there
    torch.set_num_threads(1)
