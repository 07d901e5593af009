"""Models that `sseg export` wrote: read, checked, and made ready to run without torch.

Nothing but onnxruntime, NumPy, Pillow, ftfy and regex is needed, so that manifest and description
are read as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sseg_core.errors import ArtifactError, printable
from sseg_core.inference.known_classes import KnownClasses
from sseg_core.inference.network import Network
from sseg_core.inference.onnx_class_network import OnnxClassNetwork
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.inference.onnx_word_network import OnnxWordNetwork
from sseg_core.text.tokenizer import Tokenizer

FORMAT = 1
"""Version of the folder's format; a newer one is refused."""

_FILES = {"words": ("image.onnx", "text.onnx", "merges.txt.gz"), "classes": ("image.onnx",)}
"""That a model of each kind needs."""

_FOR_PEOPLE = frozenset(("MODEL_CARD.md", "parity.json"))
"""Files that nothing depends on: they may be edited."""

_AGAIN = "Make one with: sseg export"

_T = TypeVar("_T")


def load_network(folder: Path, device: str) -> Network:
    """Return the network of an exported model.

    Args:
        folder: that `sseg export` wrote.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU where onnxruntime has one.

    Raises:
        ArtifactError: the folder is no export, was made by a newer version or was changed, or this
            onnxruntime cannot run it.
        ConfigError: onnxruntime has no such device.
        SsegError: onnxruntime is not installed.
    """
    name, digests = _checked_files(folder)
    kind = _Description(folder, name).text("kind")
    if kind not in _FILES:
        raise ArtifactError(
            f"{name} is a model of kind {printable(kind)!r}, which this sseg does not know.",
            "Install a newer sseg.",
        )
    for needed in ("model.json", *_FILES[kind]):
        if needed not in digests:
            raise ArtifactError(f"{needed} of {name} is missing.", _AGAIN)
    return open_graphs(folder, name, device, digests.get("text.onnx"))


def open_graphs(folder: Path, name: str, device: str, digest: str | None = None) -> Network:
    """Return the network of graphs that were checked, or have just been written.

    Args:
        folder: of the graphs.
        name: of the model, for errors.
        device: as of `load_network`.
        digest: of the graph of texts, to keep the features of words on disk.

    Raises:
        ArtifactError: this onnxruntime cannot run them.
        ConfigError: onnxruntime has no such device.
        SsegError: onnxruntime is not installed.
    """
    model = _Description(folder, name)
    image_graph = OnnxSession(folder / "image.onnx", device)
    if model.text("kind") == "classes":
        return OnnxClassNetwork(
            image_graph,
            KnownClasses(
                model.texts("class_names"),
                name=model.text("name"),
                teacher=model.text("teacher") if model.has("teacher") else None,
            ),
            image_size=model.count("image_size"),
            stride=model.count("stride"),
            has_background=model.flag("has_background"),
        )
    return OnnxWordNetwork(
        image_graph,
        OnnxSession(folder / "text.onnx", device),
        Tokenizer(model.count("context_length"), folder / "merges.txt.gz"),
        image_size=model.count("image_size"),
        stride=model.count("stride"),
        logit_scale=model.number("logit_scale"),
        template=model.text("template"),
        digest=digest,
    )


def _checked_files(folder: Path) -> tuple[str, Mapping[str, str]]:
    """Return what the export is called, and the SHA-256 of its files by name.

    Raises:
        ArtifactError: it is no export, or a file is not the one that was written.
    """
    shown = printable(folder)
    manifest = _json(folder / "manifest.json", shown)
    if not isinstance(manifest, dict) or manifest.get("kind") != "export":
        raise ArtifactError(f"{shown} is not an exported model.", _AGAIN)
    reference = printable(f"{manifest.get('name')}:v{manifest.get('version')}")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ArtifactError(f"The manifest of {shown} is malformed at 'files'.", _AGAIN)
    digests = {}
    for name, entry in files.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        # An export is flat: a path could lead anywhere.
        if not isinstance(digest, str) or Path(name).name != name:
            raise ArtifactError(
                f"The manifest of {shown} is malformed at {printable('files.' + name)!r}.", _AGAIN
            )
        digests[name] = digest
        if name not in _FOR_PEOPLE:
            _check_digest(folder / name, digest, reference)
    return reference, digests


def _check_digest(path: Path, digest: str, reference: str) -> None:
    name = printable(path.name)
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{name} of {reference} is missing.", _AGAIN) from error
    if found != digest:
        raise ArtifactError(
            f"{name} of {reference} does not match its hash: it was changed.", _AGAIN
        )


def _json(path: Path, shown: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{shown} is not an exported model: it holds no {path.name}.", _AGAIN
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path.name} of {shown} is not valid JSON.", _AGAIN) from error


class _Description:
    """The values of `model.json`, each checked when it is asked for.

    Args:
        folder: of the export.
        reference: what the export is called in errors.

    Raises:
        ArtifactError: it is no description, or that of a newer format; and by all methods, where a
            value is missing or of another type.
    """

    def __init__(self, folder: Path, reference: str) -> None:
        values = _json(folder / "model.json", printable(folder))
        self._reference = reference
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}
        if self.count("format") > FORMAT:
            raise ArtifactError(
                f"{reference} has format {self.count('format')}: it was exported by a newer "
                f"version, and this sseg reads up to {FORMAT}.",
                "Install a newer sseg.",
            )

    def has(self, name: str) -> bool:
        """Tell whether there is a value that is not null."""
        return self._values.get(name) is not None

    def text(self, name: str) -> str:
        return self._of_type(name, str)

    def texts(self, name: str) -> tuple[str, ...]:
        texts = self._of_type(name, list)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise self._malformed(name)
        return tuple(texts)

    def flag(self, name: str) -> bool:
        return self._of_type(name, bool)

    def count(self, name: str) -> int:
        count = self._of_type(name, int)
        if isinstance(count, bool) or count < 1:
            raise self._malformed(name)
        return count

    def number(self, name: str) -> float:
        number = self._values.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise self._malformed(name)
        if not math.isfinite(number):
            raise self._malformed(name)
        return float(number)

    def _of_type(self, name: str, kind: type[_T]) -> _T:
        value = self._values.get(name)
        if not isinstance(value, kind):
            raise self._malformed(name)
        return value

    def _malformed(self, name: str) -> ArtifactError:
        return ArtifactError(f"model.json of {self._reference} is malformed at {name!r}.", _AGAIN)
