"""Features without weights from colour alone: plain RGB, and Lab with the place in the image.

Shapes: B images, g x g cells of the grid, F features of a cell.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Chosen for oracle mIoU on Pascal VOC photos (our choice, not in the paper); it is flat around
# these values. Lightness changes with the light, so colour proper counts for more; a cell of the
# grid is made to agree with its neighbours by a slight blur and by the cell's place.
_CHROMA_WEIGHT = 2.5
_PLACE_WEIGHT = 0.7
_BLUR = 1 / 64  # standard deviation, as a share of the image side


class Rgb:
    """Plain colours: the K-Means baseline of S-Seg Table 1 (there at 1/8 of the image's side)."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, g, g, 3] mean RGB in [0, 1] of each cell of [B, 3, H, W] images."""
        return F.adaptive_avg_pool2d(images, self._grid).permute(0, 2, 3, 1)


class Lab:
    """Slightly blurred Lab colour and the place in the image."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, g, g, 5] lightness, a, b, row and column of [B, 3, H, W] images in [0, 1]."""
        from kornia.color import rgb_to_lab
        from kornia.filters import gaussian_blur2d

        # Pooled before the conversion: as good as after it, and several times faster.
        lab: Tensor = rgb_to_lab(F.adaptive_avg_pool2d(images, self._grid)) / 100
        deviation = _BLUR * self._grid
        size = 2 * round(3 * deviation) + 1
        lab = gaussian_blur2d(lab, (size, size), (deviation, deviation))
        lightness, chroma = lab[:, :1].permute(0, 2, 3, 1), lab[:, 1:].permute(0, 2, 3, 1)
        centres = (torch.arange(self._grid, device=images.device) + 0.5) / self._grid
        place = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=2)
        place = place.expand(len(images), -1, -1, -1)
        return torch.cat([lightness, _CHROMA_WEIGHT * chroma, _PLACE_WEIGHT * place], dim=3)
