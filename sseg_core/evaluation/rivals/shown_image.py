"""An image as a rival's network sees it: resized, and cut into windows."""

from __future__ import annotations

import numpy as np
import torch

from sseg_core.data.images import RGBImage
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.view import View
from sseg_core.inference.windows import window_boxes


class ShownImage:
    """An image in windows of one size.

    Attributes:
        size: height and width of the image as it is shown.
        boxes: where its n windows lie in it.
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
        self.size = (resized.shape[0], resized.shape[1])
        self.boxes = window_boxes(self.size, view.window, view.stride)
        pixels = torch.from_numpy(np.require(resized, requirements=["C", "W"]))
        shown_3HW = pixels.to(device).permute(2, 0, 1).float() / 255
        self.pixels_n3hw = torch.stack(
            [shown_3HW[:, box.top : box.bottom, box.left : box.right] for box in self.boxes]
        )
