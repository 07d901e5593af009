"""Weight files of public models: in this machine's caches, or fetched from the Hugging Face hub.

The caches are the hub client's (HF_HOME, HF_HUB_CACHE) and torch's (TORCH_HOME); with
HF_HUB_OFFLINE=1 nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sseg_core.errors import ArtifactError

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What weights are called in a repository of the hub, the better first."""


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of `names` that the hub's cache holds of `repository`, without network."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):  # else None, or a mark that the hub has no such file
            return Path(path)
    return None


def cached_download(url: str) -> Path | None:
    """Return the file that torch.hub has downloaded from `url`, without network."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    return path if path.is_file() else None


def fetch_file(repository: str, names: Sequence[str]) -> Path:
    """Return the first of `names` that `repository` has, from the cache or else the hub.

    Raises:
        ArtifactError: it is in no cache and there is no way to the hub, or no permission.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    cached = cached_file(repository, names)
    if cached is not None:
        return cached
    try:
        for name in names:
            try:
                # The download tries for half a minute where there is no network; this asks once.
                get_hf_file_metadata(hf_hub_url(repository, name))
            except EntryNotFoundError:
                continue
            return Path(hf_hub_download(repository, name))
    except Exception as error:  # the hub's client raises errors of many libraries
        raise ArtifactError(
            f"The weights of {repository} are not on this machine and cannot be fetched from the "
            f"hub ({type(error).__name__}).",
            "Give a local file with --weights FILE (sseg eval: --set oracle.weights=FILE), or use "
            "--features texture, which needs none.",
        ) from error
    raise ArtifactError(f"{repository} has no {' or '.join(names)} on the hub.")
