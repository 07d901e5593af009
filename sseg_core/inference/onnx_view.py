"""How an image and a view reach an exported network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sseg_core.errors import ConfigError
from sseg_core.inference.view import View


def float_pixels(pixels_BHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return [B, 3, H, W] float32 RGB in [0, 1] of [B, H, W, 3] uint8 pixels."""
    return np.ascontiguousarray(pixels_BHW3.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def check_view(view: View) -> None:
    """Raise ConfigError where a view asks for what an exported network cannot do."""
    if view.refine != "none":
        raise ConfigError(
            f"An exported model cannot refine its masks with {view.refine}: that needs torch.",
            "Ask the checkpoint that it was exported from, or leave the refinement out.",
        )
