"""A folder of the user's that gets a copy of what was made; nothing in it is overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

from sseg_core.artifacts import Artifact
from sseg_core.errors import DataError, printable


def check_folder(folder: Path) -> None:
    """Make the folder, and refuse one that holds anything already.

    Raises:
        DataError: it is not empty, is no folder, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(
                f"The folder {printable(folder)} is not empty, and nothing is overwritten.",
                "Choose another --out, or empty it first.",
            )
        probe = folder / ".sseg"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise DataError(
            f"Cannot write into {printable(folder)}: {reason}.", "Choose another --out."
        ) from error


def copy_to(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact, its manifest included, so that the copy can be used like the artifact."""
    for name in (*artifact.manifest.files, "manifest.json"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, target)
