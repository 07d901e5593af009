"""Pixels of windows as torch networks take them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def on_device(pixels_BHW3: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return [B, 3, H, W] float RGB in [0, 1] on `device`, of [B, H, W, 3] uint8 pixels."""
    # Bytes travel, a quarter of the floats.
    return torch.from_numpy(pixels_BHW3).to(device).permute(0, 3, 1, 2).float() / 255
