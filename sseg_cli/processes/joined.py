"""One stage in this process, in several that are started for it, or as a rank of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sseg_cli.processes.plan import ProcessPlan
    from sseg_core.artifacts import Artifact
    from sseg_core.config import Config


def make_artifact(
    stage: str,
    configuration: Config,
    store: Path,
    name: str | None,
    *,
    processes: ProcessPlan | None,
    device: str,
) -> Artifact | None:
    """Return what a stage makes; None in a rank that is not the first.

    Args:
        stage: module of `sseg_core.stages` whose `run` may be called by every rank of a group.
        configuration: of the stage.
        store: folder of all artifacts.
        name: of the artifact.
        processes: to start; None to work in this process.
        device: of this process; started ones have the kind that the plan says.
    """
    from sseg_core.artifacts import read_artifact

    if processes is None:
        folder, rank = _work(stage, configuration, store, name, device)
        return read_artifact(folder) if rank == 0 else None  # the first rank tells
    from sseg_cli.console import show_note
    from sseg_cli.processes.launch import launch

    kind = "cuda" if processes.on_gpus else "cpu"
    folder, _ = launch(_work, (stage, configuration, store, name, kind), processes, show_note)
    return read_artifact(folder)


def _work(
    stage: str, configuration: Config, store: Path, name: str | None, device: str
) -> tuple[Path, int]:
    """Run a stage in this process, alone or as the rank that its environment names.

    Returns the folder of the artifact, and the rank.
    """
    from sseg_cli.dashboard import show_training
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.tracking import SILENT

    run = import_module(f"sseg_core.stages.{stage}").run
    with (
        joined(device) as (own_device, rank),
        show_training() if rank == 0 else nullcontext(SILENT) as progress,
    ):
        made = run(
            configuration, ArtifactStore(store), name=name, device=own_device, progress=progress
        )
    return made.path, rank


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
