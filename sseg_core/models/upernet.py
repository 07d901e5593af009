"""UperNet: pyramid pooling on the last level, a feature pyramid over all, and their fusion.

Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, in the form that
mmsegmentation gave it, which BEiT, MAE and so S-Seg (App. A.2) use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UperHead(nn.Module):
    """Scores of classes from the levels of a backbone, on the grid of the finest.

    Args:
        level_channels: channels of each level, finest first.
        channels: width of the head.
        num_outputs: classes, background included where it is one of them.
        pool_sizes: sides of the grids that the last level is pooled to.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self,
        level_channels: Sequence[int],
        channels: int,
        num_outputs: int,
        *,
        pool_sizes: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        *finer, coarsest = level_channels
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), _convolution(coarsest, channels, 1))
            for size in pool_sizes
        )
        self.pooled = _convolution(coarsest + len(pool_sizes) * channels, channels, 3)
        self.laterals = nn.ModuleList(_convolution(level, channels, 1) for level in finer)
        self.smoothings = nn.ModuleList(_convolution(channels, channels, 3) for _ in finer)
        self.fusion = _convolution(len(level_channels) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(channels, num_outputs)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return [B, num_outputs, h, w] logits on the grid of the finest level.

        Args:
            levels: [B, C, h, w] each, finest first.
        """
        *finer, coarsest = levels
        pools = [_resized(pool(coarsest), coarsest) for pool in self.pools]
        features: Tensor = self.pooled(torch.cat([coarsest, *pools], dim=1))
        parts = [features]
        # From coarse to fine.
        for level, lateral, smoothing in zip(
            reversed(finer), reversed(self.laterals), reversed(self.smoothings), strict=True
        ):
            features = lateral(level) + _resized(features, level)
            parts.insert(0, smoothing(features))
        finest = parts[0]
        fused = self.fusion(torch.cat([finest, *(_resized(p, finest) for p in parts[1:])], dim=1))
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits


class FCNHead(nn.Module):
    """A small head on one level that helps the levels below it to learn, used in training only.

    As in mmsegmentation's UperNet: one 3x3 convolution and a classifier.

    Args:
        level_channels: channels of the level.
        channels: width of the head.
        num_outputs: as of `UperHead`.
        dropout: likewise.
    """

    def __init__(
        self, level_channels: int, channels: int, num_outputs: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.convolution = _convolution(level_channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(channels, num_outputs)

    def forward(self, level: Tensor) -> Tensor:
        """Return [B, num_outputs, h, w] logits for a [B, C, h, w] level."""
        logits: Tensor = self.classifier(self.dropout(self.convolution(level)))
        return logits


def _convolution(in_channels: int, channels: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False
    )
    # As mmcv's ConvModule starts.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _classifier(channels: int, num_outputs: int) -> nn.Conv2d:
    classifier = nn.Conv2d(channels, num_outputs, kernel_size=1)
    # As mmsegmentation's BaseDecodeHead starts.
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
    return classifier


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
