"""What the pixels of an image are clustered by: the choices, by name.

Shapes: B images, gh x gw tokens each, F features of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError, did_you_mean
from sseg_core.models.supervision import Supervision, licence_of, supervision_of
from sseg_core.pseudomask.colour import Lab, Rgb
from sseg_core.pseudomask.groupvit import REPOSITORIES, build_groupvit, groupvit_at_hand
from sseg_core.pseudomask.texture import Texture
from sseg_core.pseudomask.vit_features import build_vit_features
from sseg_core.pseudomask.vit_weights import cached_vit_weights

DEFAULT = "dino_vits8"
"""The paper's features (S-Seg Sec. 3.3.1)."""

_TIMM = "timm:"


class FeatureExtractor(Protocol):
    """Turns images into a grid of features."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, gh, gw, F] features of [B, 3, H, W] float RGB images in [0, 1]."""


_WITHOUT_WEIGHTS: dict[str, Callable[[int], FeatureExtractor]] = {
    "texture": Texture,
    "lab": Lab,
    "rgb": Rgb,
}


VITS = {
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    # With the attention's biases, as in the files of DINOv3's authors.
    "dinov3_vits16": "vit_small_patch16_dinov3_qkvb.lvd1689m",
    "dinov3_vitb16": "vit_base_patch16_dinov3_qkvb.lvd1689m",
    "dinov3_vitl16": "vit_large_patch16_dinov3_qkvb.lvd1689m",
    # The "ImageNet" row of S-Seg Table 1. timm has no ViT-S/8 that learned from labels: DeiT-S is
    # DINO's own architecture on the same images, and ViT-B/8 has the patches of 8 pixels.
    "imagenet_vits16": "deit_small_patch16_224.fb_in1k",
    "imagenet_vitb16": "deit_base_patch16_224.fb_in1k",
    "imagenet_vitb8": "vit_base_patch8_224.augreg_in21k_ft_in1k",
}
"""Vision Transformers by their short names; any other of timm is `timm:NAME`."""


def build_features(config: PseudomaskConfig, device: torch.device) -> FeatureExtractor:
    """Return the features that `config` names, for images on `device`.

    Raises:
        ConfigError: an unknown name, or an option that these features do not have.
        ArtifactError: weights of another model, an unreadable file, or no way to the hub.
    """
    name = resolve_features(config.features)
    if name in _WITHOUT_WEIGHTS:
        _refuse(name, weights=config.weights is not None, facet=config.facet != "token")
        return _WITHOUT_WEIGHTS[name](config.grid)
    if name in REPOSITORIES:
        _refuse(name, facet=config.facet != "token")
        return build_groupvit(name, config, device)
    return build_vit_features(_timm_name(name), config, device)


def resolve_features(name: str) -> str:
    """Return the features that `name` stands for: `auto` is DINO where it is at hand.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        return DEFAULT if weights_at_hand(DEFAULT) else "texture"
    known = [*_WITHOUT_WEIGHTS, *VITS, *REPOSITORIES]
    if name not in known and not name.startswith(_TIMM):
        raise ConfigError(
            f"There are no features called {name!r}.",
            did_you_mean(name, ["auto", *known, f"{_TIMM}NAME"]),
        )
    return name


def weights_at_hand(name: str) -> bool:
    """Return whether the features `name` can be had without network and without --weights."""
    if name in _WITHOUT_WEIGHTS:
        return True
    if name in REPOSITORIES:
        return groupvit_at_hand(name)
    return cached_vit_weights(_timm_name(name)) is not None


def supervision(name: str) -> Supervision | None:
    """Return what the features `name` learned from; None where that is not known."""
    if name in _WITHOUT_WEIGHTS:
        return "none"
    if name in REPOSITORIES:
        return "text"
    return supervision_of(_timm_name(name))


def licence(name: str) -> str | None:
    """Return the licence of the weights of the ViT `name` as timm states it, if it does."""
    if name in _WITHOUT_WEIGHTS or name in REPOSITORIES:
        return None
    return licence_of(_timm_name(name))


def _timm_name(name: str) -> str:
    return VITS.get(name, name.removeprefix(_TIMM))


def _refuse(name: str, *, weights: bool = False, facet: bool = False) -> None:
    if weights:
        raise ConfigError(
            f"{name} features have no weights to load.",
            f"Leave --weights out, or name the features they belong to: --features {DEFAULT}.",
        )
    if facet:
        raise ConfigError(
            f"{name} features have no facets.", "Leave facet out; it is an option of ViTs."
        )
