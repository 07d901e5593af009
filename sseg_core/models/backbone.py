"""The image backbone: any timm model that can return its feature levels."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.layers.format import Format
from torch import Tensor, nn

from sseg_core.config import BackboneConfig
from sseg_core.errors import ConfigError, SsegError, did_you_mean


class Backbone(nn.Module):
    """A timm `features_only` model whose levels all come out as [B, C, h, w].

    timm returns the stages of hierarchical transformers (Swin and its kin) as NHWC and without
    a final norm. Exactly these get one LayerNorm per level, as in the Swin backbones of
    MaskFormer; convolutional stages end in a normalised block and are passed on as they are.

    Attributes:
        channels: channels of each level, finest first.
        strides: pixels of the input image per cell of each level, finest first.

    Raises:
        ConfigError: timm does not know the model, or cannot build it with these options.
        SsegError: the pretrained weights are neither cached nor reachable.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.body = _create_timm_model(config)
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

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return the feature levels, finest first.

        Args:
            images_B3HW: [B, 3, H, W], normalised; H and W are multiples of the coarsest stride.

        Returns:
            For each level i a [B, channels[i], H / strides[i], W / strides[i]] tensor.
        """
        levels: list[Tensor] = self.body(images_B3HW)
        if not self.channels_come_last:
            return tuple(levels)
        # The permuted view is in channels_last memory format: no copy, and convolutions like it.
        return tuple(
            norm(level).permute(0, 3, 1, 2) for norm, level in zip(self.norms, levels, strict=True)
        )


def _create_timm_model(config: BackboneConfig) -> Any:
    if not timm.is_model(config.name):
        raise ConfigError(
            f"timm {timm.__version__} has no model {config.name!r}.", _name_hint(config.name)
        )
    arguments: dict[str, Any] = {"features_only": True, "pretrained": config.pretrained}
    if config.out_indices is not None:
        arguments["out_indices"] = config.out_indices
    arguments.update(config.options)
    try:
        try:
            # Models with windows or position tables take it, and need it for any image size.
            model = timm.create_model(config.name, **{"dynamic_img_size": True, **arguments})
        except TypeError:
            # The others refuse the unknown argument before they build anything.
            model = timm.create_model(config.name, **arguments)
    except OSError as error:
        raise SsegError(
            f"The pretrained weights of {config.name} are not available: {_first_line(error)}",
            "Connect once so that they get cached, or set backbone.pretrained=false.",
        ) from error
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        # Constructors of a thousand models refuse their arguments each in its own way.
        raise ConfigError(
            f"timm cannot build {config.name}: {_first_line(e)}",
            "Check backbone.options, backbone.out_indices and backbone.pretrained.",
        ) from e
    return model


def _name_hint(name: str) -> str:
    known = timm.list_models()
    if difflib.get_close_matches(name, known, n=1):
        return did_you_mean(name, known)
    return "timm.list_models() names all that there are."


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
