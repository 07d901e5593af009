"""Weights of timm's Vision Transformers: where they are."""

from __future__ import annotations

from pathlib import Path

from sseg_core.data.fetch.hub_files import WEIGHT_NAMES, cached_download, cached_file, fetch_file
from sseg_core.errors import ArtifactError
from sseg_core.models.supervision import pretrained_source


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
