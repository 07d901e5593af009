"""Starting processes: which ones, what comes back, and how every kind of end looks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sseg_cli.processes import rendezvous
from sseg_cli.processes.plan import ProcessPlan, plan_processes
from sseg_cli.processes.rendezvous import Rendezvous
from sseg_core.errors import ConfigError

JOB = Path(__file__).with_name("launched_job.py")
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-10]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_JOB_ID": "1234567",
}
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


# ---- the plan -------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


def test_without_options_this_process_does_the_work() -> None:
    """No option starts nothing, neither alone nor as a rank of torchrun or SLURM."""
    for environ in ({}, TORCHRUN, SLURM):
        assert plan_processes(None, None, None, None, environ) is None


@pytest.mark.usefixtures("two_gpus")
def test_the_options_name_the_processes() -> None:
    """--gpus, --procs, --nodes and --rendezvous end up in the plan; one process needs none."""
    place = Rendezvous("n1", 29500)
    assert plan_processes(2, None, None, None, {}) == ProcessPlan(2, on_gpus=True)
    assert plan_processes(None, 3, None, None, {}) == ProcessPlan(3, on_gpus=False)
    assert plan_processes(2, None, 4, "n1:29500", {}) == ProcessPlan(
        2, on_gpus=True, nodes=4, rendezvous=place
    )
    assert plan_processes(None, 1, 4, "n1:29500", {}) == ProcessPlan(
        1, on_gpus=False, nodes=4, rendezvous=place
    )
    assert plan_processes(1, None, None, None, {}) is None


@pytest.mark.usefixtures("two_gpus")
def test_a_slurm_step_of_one_task_per_node_starts_the_agents() -> None:
    """Under srun --ntasks-per-node=1 the nodes and their meeting point come from SLURM."""
    expected = ProcessPlan(2, on_gpus=True, nodes=4, rendezvous=Rendezvous("gpu07", 24567))
    assert plan_processes(2, None, None, None, SLURM) == expected
    named = plan_processes(2, None, 4, "gpu07:29500", SLURM)
    assert named is not None
    assert named.rendezvous == Rendezvous("gpu07", 29500)
    interactive = {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}
    assert plan_processes(2, None, None, None, interactive) == ProcessPlan(2, on_gpus=True)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ((2, 2, None, None), {}, "--gpus and --procs exclude each other."),
        ((8, None, None, None), {}, "--gpus 8 is more than the 2 GPU(s) of this machine."),
        ((0, None, None, None), {}, "--gpus must be at least 1, got 0."),
        ((2, None, 0, None), {}, "--nodes must be at least 1, got 0."),
        ((2, None, 4, None), {}, "--nodes 4 needs the place where the nodes meet."),
        ((None, None, 4, "n:1"), {}, "--nodes and --rendezvous need the number of processes"),
        ((2, None, None, "n:1"), {}, "--rendezvous is only for several nodes."),
        ((2, None, None, None), TORCHRUN, "--gpus cannot be used where torchrun has started"),
        ((2, None, 2, "n:1"), TORCHRUN, "--gpus and --nodes and --rendezvous cannot be used"),
        (
            (2, None, None, None),
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8(x3),4"},
            "--gpus cannot be used where srun has started 8 tasks on a node.",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    options: tuple[Any, Any, Any, Any], environ: dict[str, str], message: str
) -> None:
    """Contradictions, missing GPUs and a launcher in a launcher are errors of configuration."""
    with pytest.raises(ConfigError) as caught:
        plan_processes(*options, environ)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("text", ["n1", "n1:", ":29500", "n1:x", "n1:0", "n1:65536", "fe80::1:5"])
def test_a_malformed_rendezvous_is_an_error(text: str) -> None:
    """--rendezvous takes HOST:PORT and nothing else."""
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        rendezvous.parse(text)


def test_an_ipv6_rendezvous_stands_in_brackets() -> None:
    """[ADDRESS]:PORT is read and written the same."""
    place = rendezvous.parse("[fe80::1]:29500")
    assert (place, str(place)) == (Rendezvous("fe80::1", 29500), "[fe80::1]:29500")


# ---- the place where nodes meet ---------------------------------------------------------------


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port of this machine at which another program listens."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_an_error(occupied: int) -> None:
    """A rendezvous at a port that another program has is named before anything starts."""
    with pytest.raises(ConfigError, match=f"Port {occupied} of --rendezvous cannot be used"):
        rendezvous.is_hosted_here(Rendezvous("localhost", occupied))


def test_a_host_of_another_machine_is_not_hosted_here() -> None:
    """The address decides which node opens the port (192.0.2.1 belongs to nobody)."""
    assert not rendezvous.is_hosted_here(Rendezvous("192.0.2.1", 29500))
    assert rendezvous.is_hosted_here(Rendezvous("localhost", _free_port()))


def test_a_first_node_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the first node ends after the time limit, with a sentence that says so."""
    monkeypatch.setattr(rendezvous, "TIMEOUT_S", 1)
    place = Rendezvous("localhost", _free_port())
    with pytest.raises(ConfigError, match=f"Not all of the 4 nodes came to {place} within 1 s."):
        rendezvous.await_host(place, nodes=4, check=lambda: None)


# ---- processes --------------------------------------------------------------------------------


class Running:
    """A launcher and its two ranks."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._folder = folder
        command = [sys.executable, str(JOB), args[0], str(folder), *args[1:]]
        # A group of its own, so that a Ctrl-C of the test reaches it as that of a terminal does.
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
            start_new_session=True,
        )

    def pids(self) -> list[int]:
        """The process numbers of both ranks, once they are at work."""
        return [int(self.await_file(f"pid-{rank}")) for rank in (0, 1)]

    def await_file(self, name: str) -> str:
        path = self._folder / name
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        return path.read_text()

    def outcome(self) -> dict[str, Any]:
        """What `launch` returned or raised; nothing else may have been printed."""
        stdout, stderr = self.process.communicate(timeout=120)
        assert stderr == ""
        return json.loads(stdout)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*args: str) -> Running:
        started.append(Running(tmp_path, *args))
        return started[-1]

    yield start
    for job in started:
        if job.process.poll() is None:
            job.process.kill()
            job.process.communicate()


@pytest.mark.slow
def test_two_processes_work_as_one(run: Callable[..., Running]) -> None:
    """Both ranks meet, share the cores, and the value of rank 0 comes back, in silence."""
    outcome = run("total").outcome()
    assert outcome["messages"] == ["Starting 2 processes."]
    assert outcome["value"]["total"] == 3.0
    assert outcome["value"]["world"] == [0, 0, 2]
    cores = len(os.sched_getaffinity(0))
    assert outcome["value"]["threads"] == str(max(1, cores // 2))


@pytest.mark.slow
def test_an_expected_error_of_a_rank_comes_out_once(run: Callable[..., Running]) -> None:
    """Rank 1 raises, rank 0 waits for it in a collective: the error has its class and hint."""
    outcome = run("bad_data").outcome()
    assert outcome["error"] == "DataError"
    assert outcome["message"] == "Shard 7 has no images."
    assert outcome["hint"] == "Build it again."


@pytest.mark.slow
def test_an_unforeseen_error_names_its_rank(run: Callable[..., Running]) -> None:
    """The first error is told with rank, type and first line, not the one that followed it."""
    outcome = run("value_error").outcome()
    assert outcome["error"] == "TrainingError"
    assert outcome["message"] == "Rank 1 failed with ValueError: the answer is not 42."


@pytest.mark.slow
def test_a_rank_that_does_not_leave_is_killed(run: Callable[..., Running]) -> None:
    """A rank that is deaf to SIGTERM does not outlive the failure of another."""
    job = run("stuck")
    pids = job.pids()
    assert job.outcome()["error"] == "DataError"
    assert not any(_is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_a_killed_rank_is_named(run: Callable[..., Running]) -> None:
    """kill -9 of rank 1 is the error, not the broken connection of rank 0 that follows."""
    job = run("wait_in_barrier")
    pids = job.pids()
    os.kill(pids[1], signal.SIGKILL)
    outcome = job.outcome()
    assert outcome["error"] == "TrainingError"
    assert outcome["message"] == "Rank 1 was killed by signal 9 (SIGKILL)."
    assert "it resumes from its last step checkpoint" in outcome["hint"]
    assert "out of memory" in outcome["hint"]
    assert not any(_is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_signals_reach_every_rank(run: Callable[..., Running]) -> None:
    """SIGUSR1 is survived, SIGTERM ends as Stopped, and a slow checkpoint is waited for."""
    job = run("steps")
    pids = job.pids()
    job.process.send_signal(signal.SIGUSR1)
    assert [job.await_file(f"checkpoint-{rank}") for rank in (0, 1)] == ["SIGUSR1", "SIGUSR1"]
    job.process.send_signal(signal.SIGTERM)
    outcome = job.outcome()
    assert outcome["error"] == "Stopped"
    assert outcome["message"] == "Stopped after step 3."
    written = [job.await_file(f"checkpoint-{rank}") for rank in (0, 1)]
    assert written == ["SIGUSR1 SIGTERM", "SIGUSR1 SIGTERM"]
    assert not any(_is_alive(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False])
def test_ctrl_c_is_one_interrupt(run: Callable[..., Running], early: bool) -> None:
    """Ctrl-C of a terminal reaches the whole group: no traceback of a rank, whenever it comes."""
    job = run("steps")
    if early:
        job.await_file("launching")  # before that, a child may be one that torch's import starts
        while not _children(job.process.pid):
            time.sleep(0.02)
    else:
        job.pids()
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.outcome()["error"] == "KeyboardInterrupt"


@pytest.mark.slow
def test_two_nodes_meet(run: Callable[..., Running]) -> None:
    """The same command with the same rendezvous on two nodes is one world of two ranks."""
    place = f"localhost:{_free_port()}"
    second = run("total", place, "2", "remote")
    first = run("total", place, "2")
    outcomes = [first.outcome(), second.outcome()]
    assert outcomes[0]["messages"][0] == f"Waiting for 2 nodes at {place}."
    assert [outcome["value"]["total"] for outcome in outcomes] == [3.0, 3.0]
    assert sorted(outcome["value"]["world"] for outcome in outcomes) == [[0, 0, 2], [1, 0, 2]]


@pytest.mark.slow
def test_nodes_that_never_come_are_an_error(run: Callable[..., Running]) -> None:
    """The first node gives up waiting for the others after the time limit."""
    place = f"localhost:{_free_port()}"
    outcome = run("total", place, "9").outcome()
    assert outcome["error"] == "ConfigError"
    assert outcome["message"] == f"Not all of the 9 nodes came to {place} within 3 s."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task").exists() and [
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
