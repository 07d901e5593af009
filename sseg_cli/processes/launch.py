"""Running one function in several processes, through torch's own elastic launcher.

The launcher works in a thread; the main thread passes on signals and ends what hangs. The first
error of any rank comes out of `launch` as if it had been raised here.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from sseg_cli.processes import rendezvous
from sseg_cli.processes.launched import PASSED_ON, Job, read_failures, read_pids, run_rank
from sseg_cli.processes.plan import ProcessPlan
from sseg_core.device import available_cores
from sseg_core.errors import Stopped, TrainingError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig

T = TypeVar("T")

STOP_GRACE_S = 120.0
"""How long the ranks may take to write their checkpoint after SIGTERM."""

INTERRUPT_GRACE_S = 10.0
"""How long the ranks may take to leave after Ctrl-C; a second Ctrl-C ends them at once."""

FAILURE_GRACE_S = 5.0
"""How long the ranks may take to leave after one of them failed: they wait for it in vain."""

START_S: Final = 60.0
"""How long the processes may take to import torch, at most."""

IDLE_S: Final = 2.0
"""After Ctrl-C or SIGTERM, how long torch may be about to start its processes."""

POLL_S: Final = 0.1
RESUMES: Final = "Run the same command: it resumes from its last step checkpoint."
ELSEWHERE: Final = "If another node shows an error as well, the first of them is the cause."


def launch(
    worker: Callable[..., T],
    args: tuple[Any, ...],
    plan: ProcessPlan,
    on_message: Callable[[str], None],
) -> T:
    """Run `worker(*args)` in every process of the plan.

    SIGTERM, SIGINT and SIGUSR1 are passed on to the processes. To be called in the main thread.

    Args:
        worker: a function of a module; it, `args` and what it returns are pickled.
        args: what it is called with.
        plan: the processes to start on this node.
        on_message: is told what it is waiting for.

    Returns:
        What the first rank of this node returned.

    Raises:
        ConfigError: the nodes cannot meet.
        Stopped: SIGTERM ended the ranks.
        KeyboardInterrupt: Ctrl-C ended the ranks.
        TrainingError: a rank was killed, or failed in an unforeseen way.
        SsegError: what the first rank to fail raised, with its hint.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sseg-launch-")))
        received = stack.enter_context(_signals())
        stack.enter_context(_quiet())
        stack.enter_context(_environment(plan.processes))
        config = _launch_config(plan, folder, received, on_message)
        on_message(f"Starting {plan.processes} process{'es' if plan.processes > 1 else ''}.")
        elastic = _start(config, Job(worker, args, folder, os.getpid()))
        _watch(elastic, folder, received)
        return _result(elastic, folder, received, plan)


def _start(config: LaunchConfig, job: Job[T]) -> Future[dict[int, T | Stopped]]:
    from torch.distributed.launcher.api import elastic_launch

    future: Future[dict[int, T | Stopped]] = Future()

    def run() -> None:
        # Signals are for the main thread. The processes inherit this, so that none is hit by one
        # while it imports; `run_rank` lets them in. Python's tracker of resources comes first: to
        # start it lets signals in again.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            future.set_result(elastic_launch(config, run_rank)(job))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it again
            future.set_exception(error)

    threading.Thread(target=run, name="elastic", daemon=True).start()
    return future


def _watch(
    elastic: Future[dict[int, T | Stopped]], folder: Path, received: list[signal.Signals]
) -> None:
    """Wait for the end of all ranks of this node; pass on signals, and end who does not leave."""
    passed_on: dict[int, int] = {}
    begin = time.monotonic()
    deadline = float("inf")
    noticed: set[str] = set()
    last_busy = begin
    while elastic not in wait([elastic], POLL_S).done:
        pids = read_pids(folder)
        alive = [pid for pid in pids.values() if _is_alive(pid)]
        for pid in alive:
            for number in received[passed_on.get(pid, 0) :]:
                _send(pid, number)
            passed_on[pid] = len(received)
        failed = len(alive) < len(pids) or any(folder.glob("*.failure"))
        graces = {
            "failure": FAILURE_GRACE_S if failed else None,
            "stop": STOP_GRACE_S if signal.SIGTERM in received else None,
            "interrupt": INTERRUPT_GRACE_S if signal.SIGINT in received else None,
            "hurry": 0.0 if received.count(signal.SIGINT) > 1 else None,
        }
        for reason, grace in graces.items():
            if grace is not None and reason not in noticed:
                noticed.add(reason)
                deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline:
            for pid in alive:
                _send(pid, signal.SIGKILL)
        ends = signal.SIGTERM in received or signal.SIGINT in received
        if not ends or multiprocessing.active_children():
            last_busy = time.monotonic()
        elif time.monotonic() - last_busy > IDLE_S:
            return  # still waiting for other nodes
        # torch waits without end for a program at the port that is not its own.
        if not pids and time.monotonic() - begin > rendezvous.TIMEOUT_S + START_S:
            return


def _result(
    elastic: Future[dict[int, T | Stopped]],
    folder: Path,
    received: list[signal.Signals],
    plan: ProcessPlan,
) -> T:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousTimeoutError

    if signal.SIGINT in received or not elastic.done():
        _raise_if_ended(received)
        raise rendezvous.nodes_missing(plan.rendezvous, plan.nodes)
    try:
        values = elastic.result()
    except ChildFailedError as error:
        _raise_first_failure(error, folder, stopping=signal.SIGTERM in received, plan=plan)
    except RendezvousTimeoutError as error:
        raise rendezvous.nodes_missing(plan.rendezvous, plan.nodes) from error
    except RendezvousError as error:
        raise TrainingError(
            f"The rendezvous at {plan.rendezvous or 'this machine'} failed: a node has left it.",
            f"{ELSEWHERE} {RESUMES}",
        ) from error
    for value in values.values():
        if isinstance(value, Stopped):
            raise value
    first: T | Stopped = values[min(values)]
    assert not isinstance(first, Stopped)
    return first


class _WorkerError(Exception):
    """The traceback of a rank, shown with --debug as the cause of what `launch` raises."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _raise_first_failure(
    error: ChildFailedError, folder: Path, *, stopping: bool, plan: ProcessPlan
) -> NoReturn:
    failures = read_failures(folder)
    for failure in failures:
        if failure.expected is not None:
            raise failure.expected from _WorkerError(failure.trace)
    if stopping:
        raise Stopped(
            f"The run was stopped by SIGTERM; not every rank ended within {STOP_GRACE_S:.0f} s.",
            RESUMES,
        )
    # A rank that was killed makes the others fail, and leaves no word itself.
    rank, end = error.get_first_failure()
    hint = f"{RESUMES} {ELSEWHERE}" if plan.nodes > 1 else RESUMES
    if end.exitcode < 0 and rank not in {failure.rank for failure in failures}:
        number = -end.exitcode
        if number == signal.SIGKILL:
            hint += " If nobody killed it, the machine may have run out of memory."
        raise TrainingError(f"Rank {rank} was killed by signal {number} ({_name(number)}).", hint)
    if not failures:
        raise TrainingError(f"Rank {rank} ended with exit code {end.exitcode}.", hint)
    first = failures[0]
    raise TrainingError(
        f"Rank {first.rank} failed with {first.summary.rstrip('.')}.",
        f"sseg --debug shows its traceback. {hint}",
    ) from _WorkerError(first.trace)


def _launch_config(
    plan: ProcessPlan,
    folder: Path,
    received: list[signal.Signals],
    on_message: Callable[[str], None],
) -> LaunchConfig:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    endpoint, is_host = "localhost:0", True
    if plan.rendezvous is not None:
        endpoint, is_host = str(plan.rendezvous), rendezvous.is_hosted_here(plan.rendezvous)
        on_message(f"Waiting for {plan.nodes} nodes at {endpoint}.")
        if not is_host:
            rendezvous.await_host(plan.rendezvous, plan.nodes, lambda: _raise_if_ended(received))
    return LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.processes,
        run_id="sseg",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"is_host": is_host, "join_timeout": rendezvous.TIMEOUT_S},
        max_restarts=0,
        start_method="spawn",
        # The name of a laptop or a container often leads nowhere.
        local_addr="localhost" if plan.rendezvous is None else None,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
    )


def _raise_if_ended(received: list[signal.Signals]) -> None:
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if signal.SIGTERM in received:
        raise Stopped("The run was stopped by SIGTERM before it began.")


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collect the signals to pass on, instead of being ended by them."""
    received: list[signal.Signals] = []

    def collect(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    before = {number: signal.signal(number, collect) for number in PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's log lines about its processes from the terminal: we say what happened."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "torch.distributed.elastic",
            "torch.distributed.launcher",
            "torch.multiprocessing",
        )
    ]
    silence = logging.NullHandler()
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(silence)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(silence)
            logger.propagate = propagate


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Set what the processes inherit: their share of the cores, and no warnings of torch's C++."""
    threads = max(1, available_cores() // processes)
    wanted = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in (*added, "TORCHELASTIC_SIGNALS_TO_HANDLE"):  # the last one is elastic's own
            os.environ.pop(name, None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
