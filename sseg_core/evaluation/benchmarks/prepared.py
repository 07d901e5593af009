"""Truth that is worked out once and kept in the store: an artifact of kind `benchmark`.

COCO and LVIS publish outlines of instances in one large file. Reading it takes seconds to minutes
and gigabytes, so the label maps made from it are kept as PNG in zip files of some hundred images.
They are known again by the content of the published file: another file, split or rule makes
others, and what was made of more images serves a smaller `limit`.

index.json              the fields of `Truths` but `load`
truth/00000.zip ...     KEY.png: class index, the two highest values being void and background
"""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sseg_core.artifacts import Artifact, SharedDraft
from sseg_core.data.images import ImageError
from sseg_core.errors import ArtifactError
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import LabelMap
from sseg_core.manifest import sha256_of
from sseg_core.tracking import Progress

SHARD_IMAGES = 250
"""Images in a zip file: an interrupted command does at most so many again."""

_INDEX = "index.json"
_POLL_S = 0.2


@dataclass(frozen=True, eq=False)
class Truths:
    """What a published file says of the images of a split.

    Attributes:
        class_names: in the order of the class indices.
        images: where the photo of a key may lie, the first place that has it being meant; in the
            order of the benchmark.
        listed: images that the file lists; `images` may be the first of them only.
        load: returns the [H, W] label map of a key; raises ImageError if its truth is damaged.
    """

    class_names: tuple[str, ...]
    images: Mapping[str, tuple[str, ...]]
    listed: int
    load: Callable[[str], LabelMap]

    def first(self, limit: int | None) -> Truths:
        """Return the truth of the first `limit` images."""
        return replace(self, images=dict(islice(self.images.items(), limit)))


class PreparedTruth:
    """The place of one benchmark's truth in the store.

    Args:
        request: names the split, the limit and the store.
        name: of the benchmark.
        source: the published file.
        rule: how label maps are made of it, in a word with a version; another rule makes others.
    """

    def __init__(self, request: BenchmarkRequest, name: str, source: Path, rule: str) -> None:
        self._request = request
        self._name = f"{name}-{request.split}"
        self._config: dict[str, Any] = {
            "benchmark": name,
            "split": request.split,
            "source": source.name,
            "sha256": sha256_of(source),
            "rule": rule,
            "limit": None,
        }

    def find(self) -> Truths | None:
        """Return what was prepared before; None where there is none that will do."""
        for artifact in reversed(self._request.store.artifacts("benchmark")):
            if self._serves(artifact):
                try:
                    return _read(artifact).first(self._request.limit)
                except ArtifactError as error:
                    self._request.progress.message(f"{error.message} It is made again.")
        return None

    def prepare(self, truths: Truths) -> Truths:
        """Return `truths`, cut to the limit, from the store, written there first if it may be.

        Other processes that run the same command share the work; what an interrupted one has
        finished is kept.

        Raises:
            ArtifactError: the store cannot be written.
        """
        limit = self._request.limit
        truths = truths.first(limit)
        if not self._request.write:
            return truths
        whole = limit is None or limit >= truths.listed
        config = {**self._config, "limit": None if whole else limit}
        draft = self._request.store.shared_draft("benchmark", self._name, config)
        self._request.progress.start(f"prepare {self._name}", len(truths.images), "images")
        artifact = _write(draft, truths, self._request.progress)
        self._request.progress.message(f"the truth is kept as {artifact.reference}")
        return _read(artifact)

    def _serves(self, artifact: Artifact) -> bool:
        config = artifact.manifest.config
        if {**config, "limit": None} != self._config:
            return False
        wanted, made = self._request.limit, config["limit"]
        return made is None or (wanted is not None and wanted <= made)


def _write(draft: SharedDraft, truths: Truths, progress: Progress) -> Artifact:
    shards = dict(_shards(tuple(truths.images)))
    missing = [_INDEX, *shards]
    while missing and draft.is_open():
        before = len(missing)
        for name in tuple(missing):
            if _finish(draft, name, shards.get(name), truths):
                missing.remove(name)
                progress.advance(len(shards.get(name, ())))
        if len(missing) == before:
            time.sleep(_POLL_S)  # other processes make the rest
    if artifact := draft.published():
        return artifact
    damaged = {key: problem for name in shards for key, problem in draft.finished[name].items()}
    return draft.publish({"images": len(truths.images), "damaged": damaged})


def _finish(draft: SharedDraft, name: str, keys: Sequence[str] | None, truths: Truths) -> bool:
    """Write a shard, or the index for no keys, unless another process does; tell if it is done."""
    claim = draft.claim(name)
    if claim is None:
        return name in draft.finished
    try:
        damaged = {}
        if keys is None:
            index = {name: getattr(truths, name) for name in ("class_names", "images", "listed")}
            draft.partial(name).write_text(json.dumps(index), encoding="utf-8")
        else:
            damaged = _write_shard(draft.partial(name), keys, truths)
        draft.commit(name, damaged)
    finally:
        claim.release()
    return True


def _write_shard(path: Path, keys: Sequence[str], truths: Truths) -> dict[str, str]:
    """Write the truth of the keys; return the damaged ones with what is wrong with them."""
    damaged = {}
    with zipfile.ZipFile(path, "w") as stream:
        for key in keys:
            try:
                png = _as_png(truths.load(key), len(truths.class_names))
            except ImageError as error:
                damaged[key] = error.problem
            else:
                stream.writestr(zipfile.ZipInfo(f"{key}.png"), png)
    return damaged


def _read(artifact: Artifact) -> Truths:
    """Return the truths of an artifact, all its files being there.

    Raises:
        ArtifactError: a file of it is missing or damaged.
    """
    try:
        index = json.loads(artifact.file(_INDEX).read_text(encoding="utf-8"))
        images = {key: tuple(places) for key, places in index["images"].items()}
        class_names, listed = tuple(index["class_names"]), int(index["listed"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(artifact.path / _INDEX, artifact) from error
    shard_of: dict[str, Path] = {}
    for name, keys in _shards(tuple(images)):
        shard_of.update(dict.fromkeys(keys, artifact.file(name)))
    kept = _KeptTruth(artifact, shard_of)
    return Truths(class_names, images, listed, kept.load)


@dataclass(frozen=True, eq=False)
class _KeptTruth:
    """The label maps of an artifact.

    Attributes:
        artifact: that holds them.
        shard_of: the zip file of each key.
    """

    artifact: Artifact
    shard_of: Mapping[str, Path]

    def load(self, key: str) -> LabelMap:
        damaged = self.artifact.manifest.stats["damaged"]
        if key in damaged:
            raise ImageError("bad truth", damaged[key], f"The truth of {key}")
        try:
            with zipfile.ZipFile(self.shard_of[key]) as stream:
                return _from_png(stream.read(f"{key}.png"))
        except (
            OSError,
            ValueError,
            SyntaxError,
            KeyError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise _damaged(self.shard_of[key], self.artifact) from error


def _damaged(path: Path, artifact: Artifact) -> ArtifactError:
    return ArtifactError(
        f"{path} is damaged.", f"Remove {artifact.path}; sseg eval then makes it again."
    )


def _shards(keys: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    for number, start in enumerate(range(0, len(keys), SHARD_IMAGES)):
        yield f"truth/{number:05d}.zip", keys[start : start + SHARD_IMAGES]


def _as_png(label_map: LabelMap, num_classes: int) -> bytes:
    # -1 and -2 wrap around to the highest values.
    values = label_map.astype(np.uint8 if num_classes <= 254 else np.uint16)
    data = io.BytesIO()
    Image.fromarray(values).save(data, "PNG", compress_level=3)
    return data.getvalue()


def _from_png(data: bytes) -> LabelMap:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        values = np.array(opened, np.uint16)
        top = 256 if opened.mode == "L" else 65536
    return np.where(values >= top - 2, values.astype(np.int32) - top, values).astype(np.int16)
