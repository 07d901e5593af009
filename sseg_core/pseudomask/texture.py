"""Colour, texture and place of the cells of a grid: features that need no weights.

Our choice, not in the paper. Meant for `merge`, which compares regions by the means of these
features. Shapes: B images, g x g cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Chosen on 200 photos of Pascal VOC (our choice, not in the paper); the score is flat around
# these values.
_CHROMA_WEIGHT = 2.5  # lightness changes with the light, so colour proper counts for more
_GRADIENT_WEIGHT = 4.0
_PLACE_WEIGHT = 0.5
_DEPTH_WEIGHT = 0.5
_BLUR = 1 / 64  # standard deviation, as a share of the image side

_SWEEPS = 4  # there and back by rows and columns; further ones change next to nothing


class Texture:
    """Lab colour, texture, place, and how far a cell is from the border through colour."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, g, g, 8] features of [B, 3, H, W] float RGB images in [0, 1].

        They are lightness, the two chroma channels, the texture across and down, the row and the
        column, and the distance from the border through colour (`border_distance`); each with
        its weight.
        """
        from kornia.color import rgb_to_lab

        # Twice as fine as the grid: what differs within a cell is texture.
        fine: Tensor = rgb_to_lab(F.adaptive_avg_pool2d(images, 2 * self._grid)) / 100
        cells = F.avg_pool2d(torch.cat([_colour(fine), _gradient_sizes(fine[:, :1])], dim=1), 2)
        smooth = _blur(cells)
        channels = [
            cells[:, :3],
            _GRADIENT_WEIGHT * _within(smooth[:, 3:]),
            _PLACE_WEIGHT * self._place(images.device).expand(len(images), -1, -1, -1),
            _DEPTH_WEIGHT * border_distance(smooth[:, :3])[:, None],
        ]
        return torch.cat(channels, dim=1).permute(0, 2, 3, 1).contiguous()

    def _place(self, device: torch.device) -> Tensor:
        """Return [2, g, g] the row and the column of each cell, from 0 to 1."""
        centres = (torch.arange(self._grid, device=device) + 0.5) / self._grid
        return torch.stack(torch.meshgrid(centres, centres, indexing="ij"))


def border_distance(colour_BCHW: Tensor) -> Tensor:
    """Return [B, H, W] how much colour must change on a way from the border to each cell.

    A geodesic distance: the least sum of the distances between neighbouring colours over all
    ways, up to a few turns. It is small all over a background however far it reaches, and large
    in what stands out from it.
    """
    down, across = (colour_BCHW.diff(dim=dim).square().sum(1).sqrt() for dim in (2, 3))
    lengths = [F.pad(down, (0, 0, 1, 0)).cumsum(1), F.pad(across, (1, 0)).cumsum(2)]
    distance = torch.zeros_like(colour_BCHW[:, 0])
    distance[:, 1:-1, 1:-1] = float("inf")
    for _ in range(_SWEEPS):
        for dim, length in enumerate(lengths, start=1):
            # The way to i from an earlier j is as long as length[i] - length[j].
            forth = length + (distance - length).cummin(dim).values
            back = (distance + length).flip(dim).cummin(dim).values.flip(dim) - length
            distance = torch.minimum(forth, back)
    return distance.clamp(min=0)


def _colour(lab_B3HW: Tensor) -> Tensor:
    return torch.cat([lab_B3HW[:, :1], _CHROMA_WEIGHT * lab_B3HW[:, 1:]], dim=1)


def _gradient_sizes(lightness_B1HW: Tensor) -> Tensor:
    """Return [B, 2, H, W] absolute central differences across and down."""
    padded = F.pad(lightness_B1HW, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.cat([across, down], dim=1).abs()


def _within(gradients_BCHW: Tensor) -> Tensor:
    """Return the least value of each neighbourhood.

    The outline of a thing has large gradients too. It must not become a region of its own, and
    close to it lie places inside the thing and outside, whose texture the outline is given.
    """
    radius = round(2 * _BLUR * gradients_BCHW.shape[-1])
    return -F.max_pool2d(-gradients_BCHW, 2 * radius + 1, stride=1, padding=radius)


def _blur(image_BCHW: Tensor) -> Tensor:
    from kornia.filters import gaussian_blur2d

    deviation = _BLUR * image_BCHW.shape[-1]
    size = 2 * round(3 * deviation) + 1
    blurred: Tensor = gaussian_blur2d(image_BCHW, (size, size), (deviation, deviation))
    return blurred
