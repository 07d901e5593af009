"""Which stages of a command that runs several are done, so that the same command goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.distributed import of_first_rank, rank
from sseg_core.manifest import Kind


class StageRecord:
    """Notes of finished stages, in a file that the first rank keeps.

    Args:
        folder: where the file is; a folder of the command alone, which every rank sees.
        store: where the artifacts are.
    """

    def __init__(self, folder: Path, store: ArtifactStore) -> None:
        self._path = folder / "stages.json"
        self._store = store
        self._done: dict[str, tuple[str, float]] = of_first_rank(
            json.loads(self._path.read_text()) if self._path.exists() else {}
        )

    @property
    def seconds(self) -> float:
        """How long the stages took together, those of an interrupted command included."""
        return sum(seconds for _, seconds in self._done.values())

    def once(self, kind: Kind, name: str, make: Callable[[], Artifact]) -> Artifact:
        """Return the artifact of a stage, made by `make` unless it was made before.

        Args:
            kind: of the artifact.
            name: of the stage among those of the kind.
            make: runs the stage; in a process group on every rank.
        """
        key = f"{kind}/{name}"
        if key in self._done:
            return self._store.find(self._done[key][0], kind)
        start = time.perf_counter()
        artifact = make()
        self._done[key] = (artifact.reference, time.perf_counter() - start)
        if rank() == 0:
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self._done))
            partial.replace(self._path)
        return artifact
