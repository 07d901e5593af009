"""What the pixels of an image are clustered by: colour and place, or the tokens of a ViT.

Shapes: B images, gh x gw tokens each, F features of a token.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.errors import ArtifactError, ConfigError, did_you_mean

ALIASES = {"dino_vits8": "vit_small_patch8_224.dino"}  # the paper's features
"""Short names of timm models."""

# Chosen for oracle mIoU on Pascal VOC photos (our choice, not in the paper); it is flat around
# these values. Lightness changes with the light, so colour proper counts for more; a cell of the
# grid is made to agree with its neighbours by a slight blur and by the cell's place.
_CHROMA_WEIGHT = 2.5
_PLACE_WEIGHT = 0.7
_BLUR = 1 / 64  # standard deviation, as a share of the image side


class FeatureExtractor(Protocol):
    """Turns images into a grid of features."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, gh, gw, F] features of [B, 3, H, W] float RGB images in [0, 1]."""


def build_features(
    name: str, *, grid: int, weights: Path | None, device: torch.device
) -> FeatureExtractor:
    """Return the features called `name`.

    Args:
        name: `lab`, `rgb`, `dino_vits8`, or `timm:NAME` with any Vision Transformer of timm.
        grid: side of the token grid of `lab` and `rgb`; a ViT has one token per patch.
        weights: weight file of a ViT; None takes timm's from the hub or its cache.
        device: where the images will be.

    Raises:
        ConfigError: an unknown name, or weights for features that have none.
        ArtifactError: weights of another model, an unreadable file, or no way to the hub.
    """
    plain: dict[str, Callable[[int], FeatureExtractor]] = {"lab": _Lab, "rgb": _Rgb}
    if name in plain:
        if weights is not None:
            raise ConfigError(
                f"{name} features have no weights to load.",
                "Leave --weights out, or use --features dino_vits8.",
            )
        return plain[name](grid)
    if name not in ALIASES and not name.startswith("timm:"):
        raise ConfigError(
            f"There are no features called {name!r}.",
            did_you_mean(name, [*plain, *ALIASES, "timm:NAME"]),
        )
    model = _vit(ALIASES.get(name, name.removeprefix("timm:")), weights)
    return _VitTokens(model, model.pretrained_cfg).to(device).eval()


class _Rgb:
    """Plain colours: the weakest baseline."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def __call__(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, self._grid).permute(0, 2, 3, 1)


class _Lab:
    """Slightly blurred Lab colour and the place in the image; needs no weights."""

    def __init__(self, grid: int) -> None:
        self._grid = grid

    def __call__(self, images: Tensor) -> Tensor:
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


class _VitTokens(nn.Module):
    """The patch tokens of the last block, after the final norm."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, normalisation: dict[str, Sequence[float]]) -> None:
        super().__init__()
        self._model: Any = model
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(normalisation[name]).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        patch_height, patch_width = self._model.patch_embed.patch_size
        if height % patch_height or width % patch_width:
            raise ConfigError(
                f"A side of {height} pixels cannot be cut into patches of {patch_height}.",
                f"Use --set image_size={max(1, height // patch_height) * patch_height}.",
            )
        (tokens,) = self._model.forward_intermediates(
            (images - self.mean) / self.std, indices=1, norm=True, intermediates_only=True
        )
        grid: Tensor = tokens.permute(0, 2, 3, 1)
        return grid


def _vit(name: str, weights: Path | None) -> Any:
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_models(["vit_*", "deit*", "eva*"], pretrained=True)
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
        raise ConfigError(
            f"timm has no model {name!r}.", did_you_mean(name, near or ALIASES.values())
        )
    if not timm.models.is_model_in_modules(architecture, ["vision_transformer", "deit", "eva"]):
        raise ConfigError(
            f"{name} is no plain Vision Transformer, so it has no grid of patch tokens.",
            "Use --features dino_vits8, or timm:NAME with the name of a ViT.",
        )
    try:
        model = timm.create_model(
            name, pretrained=weights is None, num_classes=0, dynamic_img_size=True
        )
    except Exception as error:  # the hub's client raises errors of many libraries
        raise ArtifactError(
            f"The weights of {name} cannot be fetched from the hub.",
            "Give a local file with --weights FILE, or use --features lab, which needs none.",
        ) from error
    if weights is not None:
        tensors = read_tensors(weights)
        # A file of a classifier holds the classifier too.
        tensors = {key: t for key, t in tensors.items() if not key.startswith("head.")}
        load_tensors(model, tensors, source=str(weights))
    return model
