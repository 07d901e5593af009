"""The image backbone: any timm model that can return its feature levels."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Self

import torch
from timm.layers.format import Format
from torch import Tensor, nn

from sseg_core.config import BackboneConfig
from sseg_core.errors import ConfigError
from sseg_core.models.backbone_weights import load_backbone_weights
from sseg_core.models.timm_model import create_timm_model, layer_depths


class Backbone(nn.Module):
    """A timm `features_only` model whose levels all come out as [B, C, h, w].

    timm returns the stages of hierarchical transformers (Swin and its kin) as NHWC and without
    a final norm. Exactly these get one LayerNorm per level, as in the Swin backbones of
    MaskFormer; convolutional stages end in a normalised block and are passed on as they are.

    A frozen backbone stays in eval mode (drop-path, batch statistics) and keeps no activations;
    only the norms of its levels learn.

    Attributes:
        channels: channels of each level, finest first.
        strides: pixels of the input image per cell of each level, finest first.

    Raises:
        ConfigError: timm does not know the model, or cannot build it with these options.
        ArtifactError: the weight file is unreadable or of another model.
        SsegError: the pretrained weights are neither cached nor reachable.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self._config = config
        levels = {} if config.out_indices is None else {"out_indices": config.out_indices}
        self.body = create_timm_model(config, features_only=True, **levels)
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        if list(self.strides) != sorted(self.strides):
            raise ConfigError(
                f"backbone.out_indices {config.out_indices} names coarse levels before fine ones.",
                "List the finest level first.",
            )
        self.channels_come_last = getattr(self.body, "output_fmt", Format.NCHW) == Format.NHWC
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) for width in self.channels if self.channels_come_last
        )
        if config.weights is not None:
            load_backbone_weights(self.body, config, Path(config.weights))
        if config.frozen:
            self.body.requires_grad_(requires_grad=False)
            self.body.eval()

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return the feature levels, finest first.

        Args:
            images_B3HW: [B, 3, H, W], normalised; H and W are multiples of the coarsest stride.

        Returns:
            For each level i a [B, channels[i], H / strides[i], W / strides[i]] tensor.
        """
        with torch.no_grad() if self._config.frozen else nullcontext():
            levels: list[Tensor] = self.body(images_B3HW)
        if not self.channels_come_last:
            return tuple(levels)
        # The permuted view is in channels_last memory format: no copy, and convolutions like it.
        return tuple(
            norm(level).permute(0, 3, 1, 2) for norm, level in zip(self.norms, levels, strict=True)
        )

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Set the mode of all but a frozen body."""
        super().train(mode)
        if self._config.frozen:
            self.body.eval()
        return self

    def layer_depths(self) -> dict[str, int]:
        """Return at which layer, counted from the image, each parameter of the body is.

        Raises:
            ConfigError: timm does not know the order of the layers of this model.
        """
        depths = layer_depths(self.body, self._config)
        return {f"body.{name}": depth for name, depth in depths.items()}
