"""This process as the rank that its environment names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
