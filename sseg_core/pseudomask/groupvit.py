"""GroupViT's own grouping as a generator: the rival of S-Seg Table 1 that learned from text.

Shapes: B images, gh x gw patches of an image, K groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.config import PseudomaskConfig
from sseg_core.data.fetch.hub_files import WEIGHT_NAMES, cached_file, fetch_file
from sseg_core.errors import ArtifactError, ConfigError

REPOSITORIES = {
    "groupvit": "nvidia/groupvit-gcc-yfcc",
    "groupvit_redcaps": "nvidia/groupvit-gcc-redcaps",
}
"""Names of features, and the models of the hub that they are."""

_CONFIG = "config.json"
_KINDS = {"groupvit", "groupvit_vision_model"}
_VISION = "vision_model."  # the image half of a whole GroupViT
_MEAN = (0.485, 0.456, 0.406)  # GroupViT was trained on images normalised as for ImageNet
_STD = (0.229, 0.224, 0.225)


class GroupVitMemberships(nn.Module):
    """How far each patch belongs to each of the groups that GroupViT forms, in fp32."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, patch_size: int) -> None:
        super().__init__()
        self._model: Any = model.eval()
        self._patch_size = patch_size
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return [B, gh, gw, K] memberships of [B, 3, H, W] float RGB images in [0, 1].

        The memberships of a patch are positive and sum to 1; the largest is its segment.
        """
        from transformers.models.groupvit.modeling_groupvit import get_grouping_from_attentions

        output = self._model(
            pixel_values=(images - self.mean) / self.std, output_attentions=True, return_dict=True
        )
        grid = (images.shape[2] // self._patch_size, images.shape[3] // self._patch_size)
        group: Callable[..., Tensor] = get_grouping_from_attentions
        memberships = group(output.attentions, grid)
        return memberships.permute(0, 2, 3, 1)


def groupvit_at_hand(name: str) -> bool:
    """Return whether the hub's cache holds the GroupViT called `name`."""
    files = ((_CONFIG,), WEIGHT_NAMES)
    return all(cached_file(REPOSITORIES[name], names) is not None for names in files)


def build_groupvit(
    name: str, config: PseudomaskConfig, device: torch.device
) -> GroupVitMemberships:
    """Return the GroupViT called `name`, or the one in the folder that `config.weights` names.

    Raises:
        ConfigError: transformers is not installed, or GroupViT has another image size or number
            of groups than `config` asks for.
        ArtifactError: the model cannot be had, or the files are not a GroupViT.
    """
    try:
        from transformers import GroupViTVisionConfig, GroupViTVisionModel
    except ImportError as error:
        raise ConfigError(
            f"{name} features need the transformers library.", "Run: pip install 'sseg[rivals]'"
        ) from error
    config_file, weights = _files(name, config.weights)
    try:
        kind = json.loads(config_file.read_text(encoding="utf-8"))["model_type"]
        if kind not in _KINDS:
            raise ValueError(kind)
        # Of the configuration of a whole GroupViT this takes the image half.
        architecture: Any = GroupViTVisionConfig.from_pretrained(config_file.parent)
        model = GroupViTVisionModel(architecture)
    except Exception as error:  # transformers raises errors of many kinds
        raise ArtifactError(f"{config_file} does not describe a GroupViT.") from error
    groups = _final_groups(architecture.num_group_tokens, architecture.num_output_groups)
    if config.masks != groups:
        raise ConfigError(
            f"GroupViT forms {groups} groups, not {config.masks}.", f"Use --masks {groups}."
        )
    if config.image_size != architecture.image_size:
        raise ConfigError(
            f"GroupViT sees images of {architecture.image_size} pixels, not {config.image_size}.",
            f"Use --set image_size={architecture.image_size}.",
        )
    tensors = {k: t for k, t in read_tensors(weights).items() if k.startswith(_VISION)}
    load_tensors(model, tensors, source=str(weights))
    return GroupVitMemberships(model, architecture.patch_size).to(device)


def _final_groups(group_tokens: Sequence[int], output_groups: Sequence[int]) -> int:
    """Return the groups of the last stage that groups at all."""
    pairs = zip(group_tokens, output_groups, strict=True)
    return [groups for tokens, groups in pairs if tokens > 0][-1]


def _files(name: str, weights: str | None) -> tuple[Path, Path]:
    """Return the configuration and the weight file."""
    if weights is None:
        repository = REPOSITORIES[name]
        return fetch_file(repository, (_CONFIG,)), fetch_file(repository, WEIGHT_NAMES)
    path = Path(weights)
    folder = path if path.is_dir() else path.parent
    candidates = [folder / n for n in WEIGHT_NAMES] if path.is_dir() else [path]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None or not (folder / _CONFIG).is_file():
        raise ArtifactError(
            f"{path} is no GroupViT as transformers saves it.",
            f"Give a folder with {_CONFIG} and {WEIGHT_NAMES[0]}.",
        )
    return folder / _CONFIG, file
