"""The pixel decoder of MaskFormer: a feature pyramid that ends in one embedding per cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_PER_GROUP = 8
"""GroupNorm has 32 groups at MaskFormer's 256 channels; other widths keep the group size
(our choice: 32 groups of a narrow model would each normalise away what a channel says)."""


class PixelDecoder(nn.Module):
    """Feature pyramid from the coarsest to the finest level (MaskFormer, S-Seg Sec. 3.2).

    The coarsest level passes a 3x3 convolution; each finer one is projected by a 1x1
    convolution, added to what came before (upsampled), and smoothed by a 3x3 convolution.

    Args:
        channels: channels of the backbone's levels, finest first.
        width: channels D of the pyramid and of the embeddings, a multiple of 8.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.coarsest = _smoothing(coarsest, width)
        # From coarse to fine, in the order of use.
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(level, width, kernel_size=1, bias=False), _norm(width))
            for level in reversed(finer)
        )
        self.smoothings = nn.ModuleList(_smoothing(width, width) for _ in finer)
        self.pixel_embedding = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.apply(init_convolution)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the embeddings that mask embeddings are compared with, and the features below.

        Args:
            levels: the backbone's [B, C, h, w] levels, finest first.

        Returns:
            pixel_embedding: [B, D, h, w] on the grid of the finest level.
            finest_features: [B, D, h, w], the input of the last convolution, not negative.
        """
        *finer, coarsest = levels
        features: Tensor = self.coarsest(coarsest)
        for lateral, smoothing, level in zip(
            self.laterals, self.smoothings, reversed(finer), strict=True
        ):
            upsampled = F.interpolate(features, size=level.shape[-2:], mode="nearest")
            features = smoothing(upsampled + lateral(level))
        return self.pixel_embedding(features), features


def _smoothing(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
        _norm(width),
        nn.ReLU(inplace=True),
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // CHANNELS_PER_GROUP, width)


def init_convolution(module: nn.Module) -> None:
    """Draw the weights as MaskFormer does if `module` is a convolution."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
