"""Text features kept on disk, so that a vocabulary is encoded once and not once per run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
"""[n, D], one row for each text."""

_FORMAT = "texts-v1"
"""Name of the folder; a change of what is stored, or of the tokenizer, needs another."""

_DIGEST_SIZE = 32  # bytes of a SHA-256


class TextCache:
    """Features of texts on disk, by the encoder that made them and the text.

    Each encoder has a folder of up to 16 `.npy` files, by the first digit of the text's hash, so
    that a thousand names are neither a thousand files nor one that every new word rewrites. The
    cache is only ever a shortcut: what cannot be read is encoded again, what cannot be written is
    not kept, and of two processes that write at once one may lose its addition. It may be deleted
    at any time.

    Args:
        folder: where; default: `$SSEG_CACHE`, else `$XDG_CACHE_HOME/sseg`, else `~/.cache/sseg`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _default_folder()

    def get_or_encode(
        self, identity: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Features]
    ) -> Features:
        """Return the features of the texts, encoding only those that were never seen.

        Args:
            identity: names the encoder and its weights: a digest of them.
            texts: n texts; equal ones are encoded once.
            encode: returns [m, D] float32 for m texts.
        """
        keys = {text: hashlib.sha256(text.encode("utf-8", "surrogatepass")) for text in texts}
        shards: dict[str, list[str]] = {}
        for text, key in keys.items():
            shards.setdefault(key.hexdigest()[0], []).append(text)
        known: dict[str, Features] = {}
        for digit, members in shards.items():
            rows = self._read(identity, digit)
            found = {text: rows.get(keys[text].digest()) for text in members}
            known |= {text: row for text, row in found.items() if row is not None}
        missing = [text for text in keys if text not in known]
        if missing:
            new = dict(zip(missing, encode(missing), strict=True))
            width = len(new[missing[0]])
            if any(len(row) != width for row in known.values()):  # of some other encoder
                known, new = {}, dict(zip(keys, encode(list(keys)), strict=True))
            known |= new
            for digit, members in shards.items():
                added = {keys[text].digest(): new[text] for text in members if text in new}
                if added:
                    self._add(identity, digit, added)
        return np.stack([known[text] for text in texts])

    def _file(self, identity: str, digit: str) -> Path | None:
        if self._folder is None:
            return None
        encoder = hashlib.sha256(identity.encode()).hexdigest()
        return self._folder / _FORMAT / encoder / f"{digit}.npy"

    def _read(self, identity: str, digit: str) -> dict[bytes, Features]:
        """Return the sound rows of a file by the digest of their text; none where it is damaged."""
        file = self._file(identity, digit)
        if file is None:
            return {}
        try:
            with file.open("rb") as stream:
                rows = np.lib.format.read_array(stream, allow_pickle=False)
        except Exception:  # noqa: BLE001 - absent, or damaged in whatever way parsing stumbles on
            return {}
        if rows.ndim != 1 or rows.dtype != _row_type(rows):
            return {}
        return {
            row["key"].tobytes(): row["features"]
            for row in rows
            if row["check"] == _check(row["key"].tobytes(), row["features"])
        }

    def _add(self, identity: str, digit: str, added: Mapping[bytes, Features]) -> None:
        """Rewrite a file with more rows, by one rename; leave it alone where that fails."""
        file = self._file(identity, digit)
        if file is None:
            return
        width = len(next(iter(added.values())))
        known = self._read(identity, digit).items()
        merged = {**{key: row for key, row in known if len(row) == width}, **added}
        rows = np.empty(len(merged), _dtype(width))
        rows["key"] = np.frombuffer(b"".join(merged), np.uint8).reshape(-1, _DIGEST_SIZE)
        rows["features"] = np.stack(list(merged.values()))
        rows["check"] = [
            _check(key, row) for key, row in zip(merged, rows["features"], strict=True)
        ]
        with contextlib.suppress(OSError):  # read-only or full: the features are at hand anyway
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=file.parent, suffix=".partial")
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.save(stream, rows, allow_pickle=False)
                Path(partial).replace(file)
            except OSError:
                Path(partial).unlink(missing_ok=True)


def _default_folder() -> Path | None:
    """Return the user's folder for what can be made again; None for a user without a home."""
    if own := os.environ.get("SSEG_CACHE"):
        return Path(own)
    if users := os.environ.get("XDG_CACHE_HOME"):
        return Path(users) / "sseg"
    try:
        return Path.home() / ".cache" / "sseg"
    except RuntimeError:
        return None


def _dtype(width: int) -> np.dtype[np.void]:
    return np.dtype(
        [("key", np.uint8, _DIGEST_SIZE), ("check", np.uint32), ("features", np.float32, width)]
    )


def _row_type(rows: npt.NDArray[np.void]) -> np.dtype[np.void] | None:
    """Return the type that rows with features of this width must have; None if there are none."""
    if rows.dtype.names is None or "features" not in rows.dtype.names:
        return None
    shape = rows.dtype["features"].shape
    return _dtype(shape[0]) if len(shape) == 1 else None


def _check(key: bytes, features: Features) -> int:
    """Return a checksum of a row, for disks that lose a bit: wrong features would go unnoticed."""
    return zlib.crc32(features.tobytes(), zlib.crc32(key))
