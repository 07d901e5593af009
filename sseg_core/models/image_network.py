"""What all networks do first with images: normalise them and pad them to whole cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNetwork(nn.Module):
    """A network for [B, 3, H, W] float RGB in [0, 1], of any size and not normalised.

    Attributes:
        mean: [3, 1, 1], of ImageNet, as in the backbones of the paper.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Constants travel with the network but not with its weights.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def _normalised(self, images: Tensor, multiple: int) -> Tensor:
        """Normalise, and pad right and below with the mean colour to multiples of `multiple`."""
        height, width = images.shape[-2:]
        below = covering(height, multiple) * multiple - height
        right = covering(width, multiple) * multiple - width
        return F.pad((images - self.mean) / self.std, (0, right, 0, below))


def covering(pixels: int, cell: int) -> int:
    """Return how many cells of a side cover so many pixels, the last one perhaps in part."""
    # Not -(-pixels // cell): an exported graph divides towards zero.
    return (pixels + cell - 1) // cell
