"""A program that launches one of its functions in several processes; tests run it as a process.

Usage: python launched_job.py FUNCTION FOLDER [HOST:PORT NODES [remote]]. It prints what `launch`
returned or raised as JSON; the functions leave word in FOLDER. `remote` plays another machine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from sseg_cli.processes import launch as launching
from sseg_cli.processes import rendezvous
from sseg_cli.processes.launch import launch
from sseg_cli.processes.plan import ProcessPlan
from sseg_core.cluster import world_from_environment
from sseg_core.distributed import process_group, rank, sum_over_ranks
from sseg_core.errors import DataError, SsegError, Stopped


def total(folder: Path) -> dict[str, object]:
    with process_group(torch.device("cpu")):
        value = sum_over_ranks(torch.tensor(rank() + 1.0)).item()
        world = world_from_environment()
        assert world is not None
        return {
            "total": value,
            "world": [world.rank, world.local_rank, world.size],
            "threads": os.environ["OMP_NUM_THREADS"],
        }


def bad_data(folder: Path) -> None:
    with process_group(torch.device("cpu")):
        if rank() == 1:
            raise DataError("Shard 7 has no images.", "Build it again.")
        dist.barrier()


def value_error(folder: Path) -> None:
    with process_group(torch.device("cpu")):
        if rank() == 1:
            raise ValueError("the answer is not 42\nbut 43")
        dist.barrier()


def stuck(folder: Path) -> None:
    """Rank 1 leaves word and fails; rank 0 neither hears SIGTERM nor ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _leave_word(folder)
    if os.environ["RANK"] == "1":
        raise DataError("Shard 7 has no images.", "Build it again.")
    time.sleep(600)


def wait_in_barrier(folder: Path) -> None:
    """Rank 0 waits for rank 1, which waits to be killed."""
    with process_group(torch.device("cpu")):
        _leave_word(folder)
        if rank() == 1:
            time.sleep(600)
        dist.barrier()


def steps(folder: Path) -> str:
    """Goes on for ever; SIGUSR1 leaves a checkpoint, SIGTERM leaves one and ends."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _frame: received.append(number))
    _leave_word(folder)
    saved = 0
    while True:
        time.sleep(0.02)
        if len(received) > saved:
            saved = len(received)
            if received[-1] == signal.SIGTERM and os.environ["RANK"] == "0":
                time.sleep(2 * launching.FAILURE_GRACE_S)  # its checkpoint takes long
            names = " ".join(signal.Signals(number).name for number in received)
            (folder / f"checkpoint-{os.environ['RANK']}").write_text(names)
        if signal.SIGTERM in received:
            raise Stopped("Stopped after step 3.", "Run the same command.")


def _leave_word(folder: Path) -> None:
    path = folder / f"pid-{os.environ['RANK']}"
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def main(function: str, folder: str, place: str = "", nodes: str = "1", where: str = "") -> None:
    launching.FAILURE_GRACE_S = 1.0
    rendezvous.TIMEOUT_S = 3 if nodes == "9" else 60
    if where == "remote":
        rendezvous.is_hosted_here = lambda place: False
    plan = ProcessPlan(
        processes=1 if place else 2,
        on_gpus=False,
        nodes=int(nodes),
        rendezvous=rendezvous.parse(place) if place else None,
    )
    messages: list[str] = []
    (Path(folder) / "launching").touch()
    try:
        outcome = {"value": launch(globals()[function], (Path(folder),), plan, messages.append)}
    except SsegError as error:
        outcome = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except KeyboardInterrupt:
        outcome = {"error": "KeyboardInterrupt"}
    sys.stdout.write(json.dumps({**outcome, "messages": messages}))


if __name__ == "__main__":
    main(*sys.argv[1:])
