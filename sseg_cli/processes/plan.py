"""From the options --gpus, --procs, --nodes and --rendezvous to the processes to start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sseg_cli.processes.rendezvous import Rendezvous, parse
from sseg_core.cluster import (
    is_torchrun,
    slurm_meeting_point,
    slurm_tasks,
    slurm_tasks_per_node,
)
from sseg_core.errors import ConfigError


@dataclass(frozen=True)
class ProcessPlan:
    """The processes to start.

    Attributes:
        processes: how many on each node, two or more in all.
        on_gpus: one GPU for each of them, else they share the CPU.
        nodes: how many machines run the same command.
        rendezvous: where the nodes meet; None for one node.
    """

    processes: int
    on_gpus: bool
    nodes: int = 1
    rendezvous: Rendezvous | None = None


def plan_processes(
    gpus: int | None,
    procs: int | None,
    nodes: int | None,
    rendezvous: str | None,
    environ: Mapping[str, str] = os.environ,
) -> ProcessPlan | None:
    """Return the processes to start, None where this process does the work itself.

    That is so when it works alone, and when it is already a rank of torchrun's or SLURM's job.

    Raises:
        ConfigError: options that contradict each other, this machine, or a launcher around them.
    """
    options = {"--gpus": gpus, "--procs": procs, "--nodes": nodes, "--rendezvous": rendezvous}
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return None
    if is_torchrun(environ):
        raise ConfigError(
            f"{' and '.join(given)} cannot be used where torchrun has started the processes.",
            "Leave out the option, or start sseg without torchrun.",
        )
    for name in ("--gpus", "--procs", "--nodes"):
        value = options[name]
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")
    processes = _processes_per_node(gpus, procs)
    if slurm_tasks(environ) > 1 and nodes is None:
        # The step has one agent on each node: without --nodes each would do all by itself.
        nodes, place = _nodes_of_slurm(given, environ)
    elif rendezvous is not None:
        place = parse(rendezvous)
    else:
        place = None
    nodes = nodes or 1
    if nodes > 1 and place is None:
        raise ConfigError(
            f"--nodes {nodes} needs the place where the nodes meet.",
            "Name the first node and a free port: --rendezvous HOST:29500, the same on every node.",
        )
    if nodes == 1 and rendezvous is not None:
        raise ConfigError(
            "--rendezvous is only for several nodes.", "Add --nodes, or leave it out."
        )
    if processes * nodes == 1:
        return None
    return ProcessPlan(processes, on_gpus=gpus is not None, nodes=nodes, rendezvous=place)


def _processes_per_node(gpus: int | None, procs: int | None) -> int:
    if gpus is not None and procs is not None:
        raise ConfigError(
            "--gpus and --procs exclude each other.",
            "Use --gpus N for one process per GPU, --procs N for N processes on the CPU.",
        )
    if procs is not None:
        return procs
    if gpus is None:
        raise ConfigError(
            "--nodes and --rendezvous need the number of processes on each node.",
            "Add --gpus N, or --procs N for the CPU.",
        )
    import torch

    # Asks the driver's library and leaves CUDA alone, which the processes are to open.
    available = torch.cuda.device_count()
    if gpus > available:
        raise ConfigError(
            f"--gpus {gpus} is more than the {available} GPU(s) of this machine.",
            f"Use --gpus {available}." if available else "Use --procs N for processes on the CPU.",
        )
    return gpus


def _nodes_of_slurm(given: list[str], environ: Mapping[str, str]) -> tuple[int, Rendezvous]:
    if "--rendezvous" in given:
        raise ConfigError("--rendezvous is only for several nodes.", "Add --nodes.")
    per_node = slurm_tasks_per_node(environ)
    if per_node > 1:
        raise ConfigError(
            f"{given[0]} cannot be used where srun has started {per_node} tasks on a node.",
            "Leave out the option, or use srun --ntasks-per-node=1.",
        )
    return slurm_tasks(environ), Rendezvous(*slurm_meeting_point(environ))
