"""Patch features of any Vision Transformer of timm: tokens, keys or attention of its last block.

Shapes: B images, gh x gw patches of an image, F features of a patch, N tokens of an image.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sseg_core.config import PseudomaskConfig
from sseg_core.device import is_fast_at_bf16, use_one_thread
from sseg_core.errors import ConfigError, did_you_mean
from sseg_core.models.backbone_weights import load_timm_weights
from sseg_core.pseudomask.vit_weights import fetch_vit_weights

_MODULES = ["vision_transformer", "deit", "eva"]  # of timm.models


class VitFeatures(nn.Module):
    """One facet of the last block of a ViT, for every patch of an image.

    - `token`: what leaves the block, after the model's final norm (S-Seg Sec. 3.3.1); F is the
      width of the model.
    - `key`: the keys of its attention, all heads side by side, as LOST and TokenCut take them
      (before a rotary embedding, which would add the place to the content); F is the width.
    - `attention`: to which share a patch attends to each patch, the mean over the heads, as
      DiffSeg describes pixels; F is the number of patches, and a patch's shares sum to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, facet: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._model: Any = model.to(dtype).eval()
        self._facet = facet
        self._dtype = dtype
        self._seen = threading.local()
        if facet != "token":
            watched = self._model.blocks[-1].attn
            if facet == "attention":
                watched.fused_attn = False  # else the attention itself is never computed
            watched = watched.k_norm if facet == "key" else watched.attn_drop
            watched.register_forward_hook(self._see)
        statistics: dict[str, Sequence[float]] = self._model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(statistics[name]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, gh, gw, F] fp32 features of [B, 3, H, W] float RGB images in [0, 1].

        H and W are multiples of the patch size. On a CPU the features of an image are the same to
        the last bit whatever the batch and the number of threads.
        """
        height, width = images.shape[2:]
        patch_height, patch_width = self._model.patch_embed.patch_size
        compute = self._features_in_threads if images.device.type == "cpu" else self._features
        grid = (height // patch_height, width // patch_width)
        return torch.unflatten(compute(images), 1, grid)

    def _features_in_threads(self, images: Tensor) -> Tensor:
        """Let each thread have an image of its own.

        An image fits the cache where a batch does not, and no thread waits for the others after
        every operation, which costs most where decoding and writing take their share of the cores.
        """
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=use_one_thread) as pool:
                return torch.cat(list(pool.map(self._features, torch.split(images, 1))))
        finally:
            torch.set_num_threads(threads)  # else what the pool set would hold for later threads

    @torch.no_grad()
    def _features(self, images: Tensor) -> Tensor:
        """Return [B, gh * gw, F]."""
        pixels = ((images - self.mean) / self.std).to(self._dtype)
        tokens: Tensor = self._model.forward_features(pixels)
        prefix = self._model.num_prefix_tokens  # class token and registers come first
        if self._facet == "token":
            return tokens[:, prefix:].float()
        seen: Tensor = self._seen.output[:, :, prefix:].float()  # [B, heads, N, ...]
        del self._seen.output
        if self._facet == "key":
            return seen.transpose(1, 2).flatten(2)
        shares = seen[..., prefix:].mean(1)
        return shares / shares.sum(2, keepdim=True)

    def _see(self, _module: nn.Module, _input: object, output: Tensor) -> None:
        self._seen.output = output


def build_vit_features(name: str, config: PseudomaskConfig, device: torch.device) -> VitFeatures:
    """Return the features of the timm model `name`, with the weights of `config` or the hub's.

    Raises:
        ConfigError: no such model, not a plain ViT, a facet it does not have, or an image size
            that does not fit its patches.
        ArtifactError: weights of another model, an unreadable file, or no way to the hub.
    """
    import timm

    _check_name(name)
    model: Any = timm.create_model(
        name, num_classes=0, img_size=config.image_size, dynamic_img_size=True
    )
    _check_image_size(model.patch_embed.patch_size, config.image_size)
    _check_facet(model, name, config.facet)
    weights = fetch_vit_weights(name) if config.weights is None else Path(config.weights)
    load_timm_weights(model, weights)
    dtype = _pick_dtype(config.precision, device)
    if dtype == torch.bfloat16 and device.type == "cpu":
        # Two plain matrix products are much faster here than torch's fused attention, which gains
        # nothing from the processor's bf16 (188 ms an image of ViT-S/8 on one core against 276).
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    return VitFeatures(model, config.facet, dtype).to(device)


def _pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "bf16" or (precision == "auto" and is_fast_at_bf16(device)):
        return torch.bfloat16
    return torch.float32


def _check_name(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained()):
        known = timm.list_models(["vit_*", "deit*", "eva*"], pretrained=True)
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
        raise ConfigError(
            f"timm has no model {name!r}.",
            did_you_mean(name, near or ["vit_small_patch8_224.dino"]),
        )
    if not timm.models.is_model_in_modules(architecture, _MODULES):
        raise ConfigError(
            f"{name} is no plain Vision Transformer, so it has no grid of patch tokens.",
            "Use --features dino_vits8, or timm:NAME with the name of a ViT.",
        )


def _check_image_size(patch_size: tuple[int, int], image_size: int) -> None:
    patch = max(patch_size)
    if image_size % patch:
        raise ConfigError(
            f"A side of {image_size} pixels cannot be cut into patches of {patch}.",
            f"Use --set image_size={max(1, image_size // patch) * patch}.",
        )


def _check_facet(model: Any, name: str, facet: str) -> None:
    from timm.layers.attention import Attention, AttentionRope
    from timm.models.eva import EvaAttention

    attention = getattr(model.blocks[-1], "attn", None)
    if facet != "token" and not isinstance(attention, Attention | AttentionRope | EvaAttention):
        raise ConfigError(
            f"{name} has no {facet} features: its last block is not of the usual kind.",
            "Use --set facet=token.",
        )
