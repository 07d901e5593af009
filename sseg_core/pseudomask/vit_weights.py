"""Weights of timm's Vision Transformers: where they are, and how files of others fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.errors import ArtifactError
from sseg_core.pseudomask.hub import WEIGHT_NAMES, cached_download, cached_file, fetch_file

_PATCHES = "patch_embed.proj.weight"


def cached_vit_weights(name: str) -> Path | None:
    """Return the weight file of the timm model `name` in the local caches, or None."""
    source = pretrained_source(name)
    if source is None:
        return None
    path = cached_file(source.hf_hub_id, WEIGHT_NAMES) if source.hf_hub_id else None
    if path is None and source.url and not source.custom_load:  # those are NumPy files of JAX
        path = cached_download(source.url)
    return path


def fetch_vit_weights(name: str) -> Path:
    """Return the weight file of the timm model `name`, from the local caches or else the hub.

    Raises:
        ArtifactError: timm knows no weights of `name`, or they cannot be had.
    """
    path = cached_vit_weights(name)
    if path is not None:
        return path
    source = pretrained_source(name)
    if source is None or not source.hf_hub_id:
        raise ArtifactError(
            f"There are no weights of {name} on the hub.", "Give a local file with --weights FILE."
        )
    return fetch_file(source.hf_hub_id, WEIGHT_NAMES)


def pretrained_source(name: str) -> Any:
    """Return what timm knows of the weights of its model `name`, or None."""
    import timm

    return timm.get_pretrained_cfg(name)


def load_vit_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into a timm ViT without a classifier, every tensor accounted for.

    Files of timm, the plain and the full checkpoints of DINO (the teacher), and the files of
    DINOv2, DINOv3, DeiT and MAE as their authors published them. Position embeddings of another
    image size are resampled by timm; patches of another size are refused, as they would make
    another model.

    Raises:
        ArtifactError: the file is unreadable or of another model; the first wrong tensor is named.
    """
    tensors = _backbone(read_tensors(path), classifiers=_classifiers(model))
    _check_patches(model, tensors, path)
    load_tensors(model, _as_timm_names_it(model, tensors, path), source=str(path))


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg["classifier"]
    return (names,) if isinstance(names, str) else tuple(names)


def _backbone(tensors: Mapping[str, Tensor], classifiers: tuple[str, ...]) -> dict[str, Tensor]:
    """Leave out what wraps the backbone in a training state, and the classifier."""
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if any(name.startswith("backbone.") for name in plain):
        plain = {
            name.removeprefix("backbone."): tensor
            for name, tensor in plain.items()
            if name.startswith("backbone.")
        }
    heads = tuple(f"{name}." for name in classifiers)
    return {name: tensor for name, tensor in plain.items() if not name.startswith(heads)}


def _check_patches(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = model.state_dict()[_PATCHES].shape
    for name, tensor in tensors.items():
        if name.endswith(_PATCHES) and tensor.ndim == 4 and tensor.shape != expected:
            raise ArtifactError(
                f"{name!r} has shape {list(tensor.shape)} in {path}, but the model needs "
                f"{list(expected)}.",
                "Name the features that the file belongs to with --features.",
            )


def _as_timm_names_it(model: Any, tensors: dict[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Return the tensors by timm's names, position embeddings resampled; unchanged if unknown."""
    from timm.models import eva, vision_transformer

    try:
        if not isinstance(model, eva.Eva):
            converted: dict[str, Tensor] = vision_transformer.checkpoint_filter_fn(
                dict(tensors), model, adapt_layer_scale=True
            )
            return converted
        names = model.state_dict()
        if "storage_tokens" in tensors and "blocks.0.attn.q_bias" not in names:
            raise ArtifactError(
                f"{path} holds the biases of DINOv3's attention, which this model leaves out.",
                "Use a timm model with _qkvb in its name, such as --features dinov3_vits16.",
            )
        converted = eva.checkpoint_filter_fn(dict(tensors), model)
    except (AssertionError, AttributeError, KeyError, RuntimeError, ValueError):
        return tensors  # of no kind that timm knows: loading names the first wrong tensor
    return converted
