"""What this process is to its job, from the environment of torchrun, srun and sbatch."""

from __future__ import annotations

import pytest

from sseg_core.cluster import (
    World,
    device_of_rank,
    expand_hosts,
    join_environment,
    slurm_tasks_per_node,
    world_from_environment,
)
from sseg_core.errors import ConfigError

TORCHRUN = {
    "RANK": "9",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "WORLD_SIZE": "16",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}
SBATCH = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "n[1-2]",
}
SRUN = {
    **SBATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OLD_SRUN = {**{k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}, "SLURM_STEPID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (TORCHRUN, World(9, 1, 16)),
        (SRUN, World(9, 1, 16)),
        (OLD_SRUN, World(9, 1, 16)),
        (SBATCH, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({**SRUN, **TORCHRUN, "RANK": "3"}, World(3, 1, 16)),
        ({"WORLD_SIZE": "2"}, None),
    ],
    ids=["alone", "torchrun", "srun", "old-srun", "sbatch", "one-task", "torchrun-in-srun", "part"],
)
def test_the_environment_tells_the_rank(environ: dict[str, str], expected: World | None) -> None:
    """torchrun and steps of several tasks make ranks; a batch script or one task does not."""
    assert world_from_environment(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "not MASTER_ADDR, MASTER_PORT"),
        ({**TORCHRUN, "RANK": "x"}, "RANK must be a whole number, got 'x'"),
        ({**TORCHRUN, "RANK": "16"}, r"rank 16 \(local 1\) of 16"),
        ({**SRUN, "SLURM_PROCID": ""}, "SLURM_PROCID must be a whole number, got ''"),
    ],
)
def test_an_environment_that_contradicts_itself_is_an_error(
    environ: dict[str, str], message: str
) -> None:
    """Half a launcher is reported rather than taken for a process that works alone."""
    with pytest.raises(ConfigError, match=message):
        world_from_environment(environ)


def test_slurm_ranks_get_what_torch_reads() -> None:
    """The first host of the step and a port of the job's number are where the ranks meet."""
    environ = dict(SRUN)
    join_environment(World(9, 1, 16), environ)
    assert {name: environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
    }
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("n1", "24567")
    assert world_from_environment(environ) == World(9, 1, 16)


def test_an_address_that_is_set_stays() -> None:
    """MASTER_ADDR and MASTER_PORT of the user win, and torchrun's environment is left alone."""
    environ = {**SRUN, "MASTER_ADDR": "n1-ib", "MASTER_PORT": "1234"}
    join_environment(World(9, 1, 16), environ)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("n1-ib", "1234")
    torchrun = dict(TORCHRUN)
    join_environment(World(9, 1, 16), torchrun)
    assert torchrun == TORCHRUN


def test_a_step_without_hosts_is_an_error() -> None:
    """Without the list of hosts the ranks cannot find each other."""
    environ = {k: v for k, v in SRUN.items() if "NODELIST" not in k}
    with pytest.raises(ConfigError, match="SLURM_STEP_NODELIST"):
        join_environment(World(9, 1, 16), environ)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("node7", ["node7"]),
        ("a,b-1", ["a", "b-1"]),
        ("node[003-005,9],x1", ["node003", "node004", "node005", "node9", "x1"]),
        ("r[1-2]n[08-09]", ["r1n08", "r1n09", "r2n08", "r2n09"]),
        ("gpu[1,3].cluster,login", ["gpu1.cluster", "gpu3.cluster", "login"]),
    ],
)
def test_host_lists_expand(text: str, hosts: list[str]) -> None:
    """Ranges keep their leading zeros, and commas in brackets do not end a host."""
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(("text", "most"), [("8", 8), ("1(x4)", 1), ("2(x16),1", 2)])
def test_tasks_per_node_are_read(text: str, most: int) -> None:
    """The number of nodes in brackets is no number of tasks."""
    assert slurm_tasks_per_node({"SLURM_STEP_TASKS_PER_NODE": text}) == most


@pytest.mark.parametrize(
    ("environ", "num_gpus", "device"),
    [
        (TORCHRUN, 0, "cpu"),
        (TORCHRUN, 8, "cuda:1"),
        (SRUN, 8, "cuda:1"),
        (SRUN, 1, "cuda:0"),
    ],
)
def test_each_rank_has_its_gpu(environ: dict[str, str], num_gpus: int, device: str) -> None:
    """The local rank picks the GPU, unless SLURM shows the task none but its own."""
    assert device_of_rank(World(9, 1, 16), num_gpus, environ) == device


def test_more_ranks_than_gpus_are_an_error() -> None:
    """Two ranks never share a GPU by accident."""
    with pytest.raises(ConfigError, match=r"Rank 9 is process 2 of this machine, which has 1 GPU"):
        device_of_rank(World(9, 1, 16), 1, TORCHRUN)
