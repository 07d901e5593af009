"""Weights of public models into the caches where every stage finds them, also without network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sseg_core.data.fetch.hub_download import file_sha256, hub_error
from sseg_core.data.fetch.hub_files import (
    cache_folder,
    cached_file,
    fetch_file,
    forget_file,
    store_file,
)
from sseg_core.data.fetch.plan import DownloadPlan
from sseg_core.data.shards import cannot_write
from sseg_core.data.sources import WeightSource
from sseg_core.errors import ArtifactError, printable
from sseg_core.tracking import SILENT, Progress

if TYPE_CHECKING:  # torch takes seconds, and fetching does without
    from torch import Tensor

_SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class FetchedWeights:
    """Weights that are in the hub's cache now.

    Attributes:
        name: of the source.
        repository: on the hub, under which they are found.
        files: the weights, and what stands beside them.
        bytes: of all.
        sha256: of the weights.
        origin: where they came from: the hub, a file of the user, or an earlier run.
    """

    name: str
    repository: str
    files: tuple[Path, ...]
    bytes: int
    sha256: str
    origin: Literal["hub", "file", "cache"]


def plan(source: WeightSource, file: Path | None = None) -> DownloadPlan:
    """Return what `run` takes, before it starts.

    Args:
        source: of the table.
        file: that the user has brought; None to fetch it.
    """
    there = all(cached_file(source.repository, names) for names in source.files)
    size = source.bytes if file is None and not there else None
    return DownloadPlan(
        source.name,
        source.contents,
        f"hub: {source.repository}" if file is None else printable(file),
        cache_folder(),
        licence=source.licence,
        terms=source.terms,
        download_bytes=size,
        disk_bytes=_size_of(file) if file is not None else size,
        notes=("they are in the hub's cache already",) if there else (),
    )


def run(
    source: WeightSource, file: Path | None = None, *, progress: Progress = SILENT
) -> FetchedWeights:
    """Fetch weights, or take those that the user has brought, into the hub's cache.

    What was fetched is checked by its digest. A file of the user with another digest than the
    table's, or of a source without one, is checked by loading it as the stages do, and kept as
    safetensors with the names that timm, open_clip and transformers look for.

    Args:
        source: of the table.
        file: of the user; a folder for models that need more than one file.
        progress: is told of the megabytes.

    Raises:
        ArtifactError: they cannot be had, are of another model or are not what was published.
        ConfigError: the library that reads such a file is not installed.
        DataError: the disk is full.
    """
    if file is None:
        return _fetch(source, progress)
    try:
        return _take(source, file.expanduser(), progress)
    except OSError as error:
        raise cannot_write(cache_folder(), error) from error


def _fetch(source: WeightSource, progress: Progress) -> FetchedWeights:
    was_there = all(cached_file(source.repository, names) for names in source.files)
    progress.start("download", source.bytes and source.bytes // 10**6, "MB")
    told = _Megabytes(progress)
    try:
        files = tuple(fetch_file(source.repository, names, told) for names in source.files)
    except ArtifactError as error:
        if not isinstance(error.__cause__, Exception):
            raise
        reason = hub_error(source.repository, "model", error.__cause__)
        hint = f"{reason.hint} Or bring the file: sseg download {source.name}:FILE"
        raise ArtifactError(reason.message, hint) from error
    digest = file_sha256(files[0])
    # The digest is that of the first name; an older repository has the same in another format.
    is_named = files[0].name == Path(source.files[0][0]).name
    if source.sha256 is not None and is_named and digest != source.sha256:
        if was_there:
            progress.message(
                f"{source.name} in the hub's cache is not the published file, perhaps your own"
            )
        else:
            forget_file(source.repository, files[0])
            raise ArtifactError(
                f"{source.repository} has other weights than those that were published as "
                f"{source.name}.",
                f"If you trust them, fetch them by hand and run: sseg download {source.name}:FILE",
            )
    return _result(source, files, digest, "cache" if was_there else "hub")


def _take(source: WeightSource, file: Path, progress: Progress) -> FetchedWeights:
    if not file.exists():
        raise ArtifactError(f"There is no weight file {printable(file)}.", "Check the path.")
    weights = _in_folder(file, source.files[0]) if file.is_dir() else file
    digest = file_sha256(weights)
    names = source.files[0]
    if digest == source.sha256:
        stored = store_file(source.repository, names[0], weights)
    else:
        progress.message(f"checking {printable(file)} as weights of {source.name}")
        name = next(name for name in names if name.endswith(_SAFETENSORS))
        stored = _store_tensors(source, name, _checked(source, file, weights))
        digest = file_sha256(stored)
    beside = [
        store_file(source.repository, found.name, found)
        for names in source.files[1:]
        if file.is_dir()
        for found in [_in_folder(file, names)]
    ]
    return _result(source, (stored, *beside), digest, "file")


def _store_tensors(source: WeightSource, name: str, tensors: Mapping[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    # Files may share memory between tensors, which safetensors refuses.
    plain = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch, name)
        save_file(plain, file, {"format": "pt"})
        return store_file(source.repository, name, file)


def _checked(source: WeightSource, file: Path, weights: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a file of the user, by the names that the hub's file has.

    Raises:
        ArtifactError: it is unreadable or of another model.
    """
    import torch

    from sseg_core.checkpoint import read_tensors

    if ":" in source.model:
        from sseg_core.evaluation.rivals.open_clip_model import ClipName, open_clip_model

        open_clip_model(ClipName.parse(source.model), str(weights), torch.device("cpu"))
        return read_tensors(weights)
    if source.model:
        return _timm_tensors(source.model, weights)
    from sseg_core.evaluation.rivals.groupvit import open_groupvit
    from sseg_core.inference.view import View

    open_groupvit(source.repository, str(file), View(), torch.device("cpu"))
    return read_tensors(weights)


def _timm_tensors(name: str, weights: Path) -> Mapping[str, Tensor]:
    import timm
    import torch

    from sseg_core.models.backbone_weights import load_timm_weights

    model: Any = timm.create_model(name)
    own = model.state_dict()
    named = model.pretrained_cfg["classifier"] or ()
    prefixes = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
    heads = [key for key in own if key.startswith(prefixes)]
    for key in heads:
        own[key].fill_(torch.nan)  # to see whether the file has one
    load_timm_weights(model, weights, optional=heads)
    loaded: dict[str, Tensor] = model.state_dict()
    return {key: t for key, t in loaded.items() if key not in heads or not t.isnan().any()}


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ArtifactError(
            f"{printable(folder)} has no {' or '.join(names)}.",
            "Give the folder as transformers saves the model.",
        )
    return found


def _result(
    source: WeightSource,
    files: tuple[Path, ...],
    digest: str,
    origin: Literal["hub", "file", "cache"],
) -> FetchedWeights:
    size = sum(path.stat().st_size for path in files)
    return FetchedWeights(source.name, source.repository, files, size, digest, origin)


def _size_of(file: Path) -> int | None:
    path = file.expanduser()
    return path.stat().st_size if path.is_file() else None


class _Megabytes:
    """Tells a progress of bytes in whole megabytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bytes = 0
        self._told = 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        step = self._bytes // 10**6 - self._told
        if step:
            self._told += step
            self._progress.advance(step)
