"""A file on its way: what has come of it, and which version of it that is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sseg_core.errors import DataError, printable


class PartialFile:
    """What has come of a file, and of which version.

    Args:
        target: the path of the whole file; the partial one and its note lie beside it.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")

    def make_folder(self) -> None:
        """Make the folder that it lies in.

        Raises:
            DataError: that cannot be done.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error

    def size(self) -> int:
        """Return how many bytes have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> dict[str, Any]:
        """Return what is known of the version: `url`, `tag`, and `bytes` of the whole."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    @contextmanager
    def writing(self, start: int, version: dict[str, Any]) -> Iterator[IO[bytes]]:
        """Open it to be written from a byte on.

        Args:
            start: bytes of it to keep.
            version: of the file, noted with its first byte.

        Raises:
            DataError: the disk is full, or cannot be written; any OSError within is taken for that.
        """
        try:
            if not start:
                # In this order, so that no kill leaves the bytes of one version with the note of
                # another.
                self.path.unlink(missing_ok=True)
                self._note.write_text(json.dumps(version), encoding="utf-8")
            with self.path.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                yield stream
        except OSError as error:
            raise self._cannot_write(error) from error

    def discard(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give it its name.

        Raises:
            DataError: the disk is full, which some file systems tell only now.
        """
        try:
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())
            self.path.replace(self._target)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._note.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(
            f"Cannot write {printable(self.path, None)}: {(error.strerror or str(error)).lower()}.",
            "Make room there, or choose another folder, and run the same command again.",
        )
