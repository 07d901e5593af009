"""An image as a rival's network sees it: resized, and cut into windows."""

from __future__ import annotations

import numpy as np
import torch

from sseg_core.data.images import RGBImage
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.view import View
from sseg_core.inference.windows import Window, window_boxes

SHORT_SIDE = 448
"""To which the rivals resize an image that a protocol does not (S-Seg App. A.1)."""


class ShownImage:
    """An image in windows of one size.

    Attributes:
        windows: the n windows.
        pixels_n3hw: [n, 3, h, w] float RGB in [0, 1], the windows.
    """

    def __init__(self, image: RGBImage, view: View, device: torch.device) -> None:
        """Resize and cut an image.

        Args:
            image: [H, W, 3] uint8.
            view: with a short side, window and stride.
            device: of the pixels.
        """
        assert view.short_side
        assert view.window is not None
        assert view.stride is not None
        resized = at_short_side(image, view.short_side)
        size = (resized.shape[0], resized.shape[1])
        boxes = window_boxes(size, view.window, view.stride)
        self.windows = [Window(box, size) for box in boxes]
        pixels = torch.from_numpy(np.require(resized, requirements=["C", "W"]))
        shown_3HW = pixels.to(device).permute(2, 0, 1).float() / 255
        self.pixels_n3hw = torch.stack(
            [shown_3HW[:, box.top : box.bottom, box.left : box.right] for box in boxes]
        )
