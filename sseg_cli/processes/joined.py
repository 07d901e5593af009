"""One stage in this process, in several that are started for it, or as a rank of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sseg_cli.processes.plan import ProcessPlan
    from sseg_core.artifacts import Artifact

Work = Callable[..., tuple[Path, int]]
"""Makes an artifact of `arguments` on a device; returns its folder and the rank of the process."""


def make_artifact(
    work: Work, arguments: tuple[Any, ...], processes: ProcessPlan | None, device: str
) -> Artifact | None:
    """Return what `work(*arguments, device)` makes; None in a rank that is not the first.

    Args:
        work: a function of a module, so that other processes can be told to run it.
        arguments: that can be pickled.
        processes: to start; None to work in this process.
        device: of this process; started ones have the kind that the plan says.
    """
    from sseg_core.artifacts import read_artifact

    if processes is None:
        folder, rank = work(*arguments, device)
        return read_artifact(folder) if rank == 0 else None  # the first rank tells
    from sseg_cli.console import show_note
    from sseg_cli.processes.launch import launch

    kind = "cuda" if processes.on_gpus else "cpu"
    folder, _ = launch(work, (*arguments, kind), processes, show_note)
    return read_artifact(folder)


@contextmanager
def joined(device: str) -> Iterator[tuple[str, int]]:
    """Join the group of processes that torchrun, srun or our launcher started, if one did.

    Yields the device of this process and its rank, 0 where it works alone.
    """
    from sseg_core.cluster import device_of_rank, join_environment, world_from_environment

    world = world_from_environment()
    if world is None:
        yield device, 0
        return
    import torch

    from sseg_core.device import pick_device
    from sseg_core.distributed import process_group

    if device in {"auto", "cuda"}:
        device = device_of_rank(world, torch.cuda.device_count())
    join_environment(world)
    with process_group(pick_device(device)):
        yield device, world.rank
