"""Weight files of public models: in this machine's caches, or fetched from the Hugging Face hub.

The caches are the hub client's (HF_HOME, HF_HUB_CACHE) and torch's (TORCH_HOME); with
HF_HUB_OFFLINE=1 nothing else is asked. In the hub's cache a repository is a folder:

models--ORG--NAME/blobs/DIGEST              the bytes
models--ORG--NAME/snapshots/COMMIT/FILE     a link to them
models--ORG--NAME/refs/main                 the commit that is looked at
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from sseg_core.data.fetch.hub_download import Told, download, file_sha256
from sseg_core.errors import ArtifactError, SsegError

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What weights are called in a repository of the hub, the better first."""

_WORD = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what the hub may call a file or a commit


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


def fetch_file(repository: str, names: Sequence[str], told: Told | None = None) -> Path:
    """Return the first of `names` that `repository` has, from the cache or else the hub.

    Args:
        repository: ORG/NAME of a model.
        names: of files in it.
        told: of the bytes that have come; None shows the bar of the hub's client.

    Raises:
        ArtifactError: it is in no cache and there is no way to the hub, or no permission.
        DataError: it comes with wrong bytes, or the disk is full.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    cached = cached_file(repository, names)
    if cached is not None:
        return cached
    try:
        for name in names:
            try:
                # A download tries for half a minute where there is no network; this asks once.
                url = hf_hub_url(repository, name)
                found = get_hf_file_metadata(url)
            except EntryNotFoundError:
                continue
            commit, etag = _word(found.commit_hash), _word(found.etag)
            blob = _folder(repository) / "blobs" / etag
            with _locked(repository, etag):
                if not blob.exists():
                    blob.parent.mkdir(parents=True, exist_ok=True)
                    with _bar(name, found.size) as bar:
                        download(url, blob, size=found.size, etag=etag, told=told or bar.update)
            return _link(repository, commit, name, blob)
    except SsegError:
        raise
    except Exception as error:  # the hub's client raises errors of many libraries
        raise ArtifactError(
            f"The weights of {repository} are not on this machine and cannot be fetched from the "
            f"hub ({type(error).__name__}).",
            "Give a local file with --weights FILE (sseg eval: --set oracle.weights=FILE), or use "
            "--features texture, which needs none.",
        ) from error
    raise ArtifactError(f"{repository} has no {' or '.join(names)} on the hub.")


def cache_folder() -> Path:
    """Return the folder of the hub's cache; it may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def store_file(repository: str, name: str, file: Path) -> Path:
    """Put a copy of a file into the hub's cache, where it is found as if it had been fetched.

    Args:
        repository: ORG/NAME of the model that it is of.
        name: that the file has there.
        file: with the bytes.

    Returns:
        Its path in the cache.

    Raises:
        OSError: the cache cannot be written.
    """
    digest = file_sha256(file)
    blob = _folder(repository) / "blobs" / digest
    with _locked(repository, digest):
        if not blob.exists():
            blob.parent.mkdir(parents=True, exist_ok=True)
            partial = blob.with_name(f"{digest}.{os.getpid()}.incomplete")
            try:
                shutil.copyfile(file, partial)
                partial.replace(blob)
            finally:
                partial.unlink(missing_ok=True)
    # What lies there already of the same repository must stay in sight.
    reference = _folder(repository) / "refs" / "main"
    commit = reference.read_text(encoding="utf-8") if reference.exists() else digest[:40]
    return _link(repository, commit, name, blob)


def forget_file(repository: str, path: Path) -> None:
    """Remove a file of the hub's cache, with its bytes."""
    if path.resolve().is_relative_to(_folder(repository).resolve()):
        path.resolve().unlink()
        path.unlink(missing_ok=True)


def _folder(repository: str) -> Path:
    return cache_folder() / f"models--{repository.replace('/', '--')}"


def _locked(repository: str, digest: str) -> FileLock:
    folder = cache_folder() / ".locks" / _folder(repository).name
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{digest}.lock")


def _link(repository: str, commit: str, name: str, blob: Path) -> Path:
    """Let a snapshot, which becomes the one that is looked at, show a blob under its name."""
    root = _folder(repository)
    path = root / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.incomplete")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:  # Windows allows no links; the hub's client copies as well
        shutil.copyfile(blob, partial)
    partial.replace(path)
    (root / ".no_exist" / commit / name).unlink(missing_ok=True)
    reference = root / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit, encoding="utf-8")
    return path


def _bar(name: str, size: int | None) -> Any:
    """Return the bar of the hub's client, which shows itself on a terminal only."""
    tqdm = import_module("huggingface_hub.utils").tqdm
    return tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None)


def _word(text: str | None) -> str:
    """Return what becomes part of a path, if it is harmless."""
    if text is None or not _WORD.fullmatch(text):
        raise ValueError("the hub does not tell the version of the file")
    return text
