"""The draft of an artifact that the processes of a group make together: the first one has it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore, Draft, read_artifact
from sseg_core.distributed import of_first_rank, rank
from sseg_core.errors import ArtifactError, SsegError
from sseg_core.manifest import Kind


@dataclass(frozen=True)
class GroupDraft:
    """A draft as a rank of a process group sees it.

    Attributes:
        draft: on the first rank, or in a process of its own; None on the others.
        path: folder of the artifact in the making.
        scratch: folder of what is not published.
    """

    draft: Draft | None
    path: Path
    scratch: Path

    def share(self, made: Artifact | None) -> Artifact:
        """Return on every rank what the first one has published.

        Args:
            made: the artifact on the first rank; what the others pass is not looked at.
        """
        if rank() == 0:
            assert made is not None
            of_first_rank(made.path.absolute())
            return made
        return read_artifact(of_first_rank(Path()))


@contextmanager
def group_draft(
    store: ArtifactStore,
    kind: Kind,
    name: str,
    config: dict[str, Any],
    parents: Sequence[Artifact] = (),
) -> Iterator[GroupDraft]:
    """Open the working folder of an artifact; see `ArtifactStore.draft`.

    Raises:
        ArtifactError: the draft cannot be opened, on every rank; or this machine does not see it.
    """
    with ExitStack() as stack:
        draft = None
        found: tuple[Path, Path] | SsegError | None = None
        if rank() == 0:
            try:
                draft = stack.enter_context(store.draft(kind, name, config, parents))
                found = (draft.path.absolute(), draft.scratch.absolute())
            except SsegError as error:
                found = error
        found = of_first_rank(found)
        if isinstance(found, SsegError):
            raise found
        assert found is not None
        if not found[1].exists():
            raise ArtifactError(
                f"{socket.gethostname()} does not see {found[1]}.",
                "All machines of a run must share the --store.",
            )
        yield GroupDraft(draft, *found)
