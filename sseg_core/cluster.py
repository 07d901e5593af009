"""Which rank of which job this process is, as torchrun or SLURM tells it through the environment.

torch's own `env://` reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. torchrun sets
them; for a step of SLURM (srun with several tasks) `join_environment` works them out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from sseg_core.errors import ConfigError

TORCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher such as torchrun tells each of its processes."""

FIRST_PORT, NUM_PORTS = 20_000, 10_000
"""Where the port of a SLURM job lies: below the ports that the kernel gives out by itself."""


@dataclass(frozen=True)
class World:
    """The place of this process among all processes of a job.

    Attributes:
        rank: number of this process, 0 to size - 1.
        local_rank: its number among those of this machine.
        size: number of processes on all machines.
    """

    rank: int
    local_rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise ConfigError(
                f"This process is told to be rank {self.rank} (local {self.local_rank}) of "
                f"{self.size}.",
                "Look at RANK, LOCAL_RANK and WORLD_SIZE in its environment.",
            )


def world_from_environment(environ: Mapping[str, str] = os.environ) -> World | None:
    """Return the place of this process in the job of a launcher, None where it stands alone.

    A script of sbatch is not a rank, and neither is a step of one task: both may start processes.

    Raises:
        ConfigError: the environment names a rank, but contradicts itself or lacks a part.
    """
    if is_torchrun(environ):
        missing = [name for name in TORCH_VARIABLES if name not in environ]
        if missing:
            raise ConfigError(
                f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}.",
                "Start the processes with torchrun, or unset RANK and WORLD_SIZE.",
            )
        return World(
            rank=_number(environ, "RANK"),
            local_rank=_number(environ, "LOCAL_RANK"),
            size=_number(environ, "WORLD_SIZE"),
        )
    if slurm_tasks(environ) > 1:
        return World(
            rank=_number(environ, "SLURM_PROCID"),
            local_rank=_number(environ, "SLURM_LOCALID"),
            size=slurm_tasks(environ),
        )
    return None


def join_environment(world: World, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what torch's `env://` needs where SLURM started this rank; torchrun has set it already.

    Raises:
        ConfigError: SLURM does not name the hosts of the step.
    """
    if is_torchrun(environ):
        return
    host, port = slurm_meeting_point(environ)
    environ.setdefault("MASTER_ADDR", host)
    environ.setdefault("MASTER_PORT", str(port))
    environ["RANK"] = str(world.rank)
    environ["LOCAL_RANK"] = str(world.local_rank)
    environ["WORLD_SIZE"] = str(world.size)


def device_of_rank(world: World, num_gpus: int, environ: Mapping[str, str] = os.environ) -> str:
    """Return the name of the device that this rank works on: `cpu`, `cuda:0`, `cuda:1`, ...

    Args:
        world: the place of this process.
        num_gpus: how many GPUs this process sees.
        environ: SLURM may show each task one GPU alone, its own; torchrun never does.

    Raises:
        ConfigError: more processes than GPUs on this machine.
    """
    if num_gpus == 0:
        return "cpu"
    if num_gpus == 1 and "LOCAL_WORLD_SIZE" not in environ and slurm_tasks(environ) > 1:
        return "cuda:0"
    if world.local_rank >= num_gpus:
        raise ConfigError(
            f"Rank {world.rank} is process {world.local_rank + 1} of this machine, which has "
            f"{num_gpus} GPU(s).",
            "Start at most one process per GPU, or use --device cpu.",
        )
    return f"cuda:{world.local_rank}"


def is_torchrun(environ: Mapping[str, str]) -> bool:
    """Return whether torchrun, or a launcher that speaks as it does, started this process."""
    return "RANK" in environ and "WORLD_SIZE" in environ


def slurm_tasks(environ: Mapping[str, str]) -> int:
    """Return the number of tasks of the SLURM step that this process belongs to, 0 outside one."""
    # Older versions of SLURM know only the name without the second underscore.
    if "SLURM_STEP_ID" not in environ and "SLURM_STEPID" not in environ:
        return 0
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return 0
    return _number(environ, "SLURM_STEP_NUM_TASKS")


def slurm_tasks_per_node(environ: Mapping[str, str]) -> int:
    """Return the largest number of tasks that the SLURM step has on one node.

    SLURM writes it as `8`, `2(x3)` (2 on each of 3 nodes) or `2(x3),1`.
    """
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    return max(int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", text))


def slurm_meeting_point(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and the port at which the tasks of a SLURM step meet.

    The port follows from the number of the job, so that all tasks know it and two jobs on one
    node rarely share it; MASTER_PORT overrides it.

    Raises:
        ConfigError: SLURM does not name the hosts of the step, or the job.
    """
    nodes = expand_hosts(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or "")
    if not nodes:
        raise ConfigError(
            "SLURM_STEP_NODELIST, the hosts of this step, is not set.",
            "Set MASTER_ADDR and MASTER_PORT, or start the step with srun.",
        )
    if "MASTER_PORT" in environ:
        return nodes[0], _number(environ, "MASTER_PORT")
    return nodes[0], FIRST_PORT + _number(environ, "SLURM_JOB_ID") % NUM_PORTS


def expand_hosts(text: str) -> list[str]:
    """Return the hosts of a SLURM list, as `node[003-005,9],x1`, in its order.

    >>> expand_hosts("node[003-004,9],x1")
    ['node003', 'node004', 'node9', 'x1']
    """
    hosts: list[str] = []
    # A comma inside brackets does not end a host.
    for pattern in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        expanded = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", pattern):
            endings = [plain] if plain else _expand_ranges(ranges)
            expanded = [start + ending for start in expanded for ending in endings]
        hosts.extend(expanded)
    return hosts


def _expand_ranges(text: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last:
            # The width keeps the leading zeros of "003-005".
            numbers.extend(f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
        else:
            numbers.append(first)
    return numbers


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"The environment variable {name} must be a whole number, got {text!r}.",
            "Unset it, or start the processes with torchrun or srun.",
        ) from None
