"""Which device a stage or a model runs on."""

from __future__ import annotations

import torch

from sseg_core.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
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
