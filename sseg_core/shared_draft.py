"""A draft that any number of processes, on any number of machines, make together.

Each file is claimed before it is made, by a lock on `.work-HASH/claims/NAME.lock`. The operating
system releases the lock when the process ends, however it ends, so the work of a killed process is
taken over. The last one to finish publishes; the others return what it published.

The locks are those of flock: the store needs a file system that has them, which local disks, NFS
since version 4 (on Linux), CephFS and Lustre (mounted with `flock`) do.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sseg_core.draft import Draft, versions_in
from sseg_core.errors import ArtifactError
from sseg_core.manifest import Artifact, Kind, read_artifact


class SharedDraft(Draft):
    """A draft without an owner; it can be pickled and opened again in a worker process."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind,
        name: str,
        config: dict[str, Any],
        parents: Sequence[Artifact],
    ) -> None:
        # Not while another process publishes, or this one would open what is about to go.
        with _lock(folder):
            if folder.exists() and not (folder / "artifact").exists():
                shutil.rmtree(folder)  # published by a process that was killed before it cleaned up
            super().__init__(folder, kind=kind, name=name, config=config, parents=parents)
            self._claims = folder / "claims"
            self._claims.mkdir(exist_ok=True)
            self._older = frozenset(versions_in(folder.parent))
            # The same command, begun anew after this draft was published, makes a folder of the
            # same name.
            self._inode = self.path.stat().st_ino

    def is_open(self) -> bool:
        """Tell whether there still is something to make; False once it was published."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def claim(self, relative: str) -> FileLock | None:
        """Return the lock of a file that is to be made, or None where there is nothing to do.

        That is where the file is finished or another process makes it. The caller releases the
        lock, after `commit` or `note`.
        """
        if not self.is_open():
            return None
        # Released by another thread than the one that takes it.
        lock = FileLock(self._claims / f"{relative}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except FileNotFoundError:
            if self.is_open():
                raise
            return None
        # It may have been finished since the last look. Its own note is asked for, since NFS may
        # show an older listing of the folder.
        if self.is_open() and not self.look(relative):
            return lock
        lock.release()
        return None

    def publish(self, stats: Mapping[str, Any], parents: Sequence[Artifact] = ()) -> Artifact:
        """Publish as `Draft.publish` does, unless another process has: then return its artifact."""
        with _lock(self._folder) as lock:
            artifact = self.published() or super().publish(stats, parents)
            # While it is held: a process that waits for it then sees that the file has gone.
            Path(lock.lock_file).unlink(missing_ok=True)
            return artifact

    def published(self) -> Artifact | None:
        """Return the artifact that another process published from this draft, None before that.

        Raises:
            ArtifactError: the working folder was removed.
        """
        if self.is_open():
            return None
        home = self._folder.parent
        # The same command shares this draft, so the first new version of it is the one.
        for number in sorted(set(versions_in(home)) - self._older):
            artifact = read_artifact(home / f"v{number}")
            manifest = artifact.manifest
            if manifest.config == self._config and manifest.parents == self._parents:
                return artifact
        raise ArtifactError(
            f"The working folder {self._folder} was removed while it was in use.",
            "Run the same command again.",
        )


def _lock(folder: Path) -> FileLock:
    return FileLock(f"{folder}.lock")
