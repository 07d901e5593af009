"""Gathering with gradients, sums and agreements: alone and in two processes.

Run as a script, this file is one of the processes: `RANK WORLD_SIZE FOLDER`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sseg_core.distributed import (
    all_of_ranks,
    gather,
    max_over_ranks,
    mean_over_ranks,
    of_first_rank,
    process_group,
    rank,
    sum_over_ranks,
    world_size,
)

WORLD, ROWS, WIDTH = 2, 3, 4
TIMEOUT_S = 240


def _features() -> Tensor:
    """The features of all ranks, one after the other."""
    return torch.randn(WORLD * ROWS, WIDTH, generator=torch.Generator().manual_seed(0))


def _loss(number: int, everything: Tensor) -> Tensor:
    """Something that each rank makes of all features, each in its own way."""
    weights = torch.randn(WORLD * ROWS, WIDTH, generator=torch.Generator().manual_seed(1 + number))
    return (weights * everything.exp()).sum()


def _process() -> dict[str, Any]:
    """Return what every function gives on this rank."""
    number = rank()
    own = _features()[number * ROWS : (number + 1) * ROWS].clone().requires_grad_()
    gathered = gather(own)
    _loss(number, gathered).backward()
    assert own.grad is not None
    # Neither contiguous nor of two dimensions.
    turned = gather(_features()[number * ROWS : (number + 1) * ROWS].T)
    value = torch.tensor([1.0 + number, 10.0 - number], requires_grad=True)
    sums = [f(value) for f in (sum_over_ranks, mean_over_ranks, max_over_ranks)]
    assert not any(result.requires_grad for result in sums)
    return {
        "rank": [number, world_size()],
        "gathered": gathered.tolist(),
        "gradient": own.grad.tolist(),
        "turned": turned.tolist(),
        "flat": gather(value).tolist(),
        "sums": [result.tolist() for result in sums],
        "value": value.tolist(),
        "count": sum_over_ranks(torch.tensor(3 + number)).tolist(),
        "objects": all_of_ranks({"name": f"rank {number}", "list": [number]}),
        "decision": of_first_rank(f"what rank {number} says"),
    }


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(number), str(WORLD), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in range(WORLD)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, outputs
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(WORLD)]


def test_ranks_know_their_number(of_ranks: list[dict[str, Any]]) -> None:
    """Each process has its rank, and all know how many there are."""
    assert [found["rank"] for found in of_ranks] == [[0, WORLD], [1, WORLD]]


def test_gather_returns_all_features_in_order_of_rank(of_ranks: list[dict[str, Any]]) -> None:
    """Every rank has the rows of all, the first rank's first, whatever their layout."""
    for found in of_ranks:
        torch.testing.assert_close(torch.tensor(found["gathered"]), _features(), rtol=0, atol=1e-6)
        turned = torch.cat([part.T for part in _features().split(ROWS)])
        torch.testing.assert_close(torch.tensor(found["turned"]), turned, rtol=0, atol=1e-6)
        assert found["flat"] == [1, 10, 2, 9]


def test_gather_sums_the_gradients_of_all_ranks(of_ranks: list[dict[str, Any]]) -> None:
    """A rank's features get what autograd gives them for the sum of the losses of all ranks."""
    features = _features().requires_grad_()
    sum((_loss(number, features) for number in range(WORLD)), torch.zeros(())).backward()
    assert features.grad is not None
    actual = torch.cat([torch.tensor(found["gradient"]) for found in of_ranks])
    torch.testing.assert_close(actual, features.grad)


def test_sums_run_over_ranks_and_leave_the_value_as_it_is(of_ranks: list[dict[str, Any]]) -> None:
    """Sum, mean and largest are the same everywhere, element by element; counts stay whole."""
    for number, found in enumerate(of_ranks):
        assert found["sums"] == [[3, 19], [1.5, 9.5], [2, 10]]
        assert found["value"] == [1 + number, 10 - number]
        assert found["count"] == 7


def test_ranks_exchange_objects(of_ranks: list[dict[str, Any]]) -> None:
    """All see what each has, in order of rank; and what the first one decides."""
    for found in of_ranks:
        assert [value["name"] for value in found["objects"]] == ["rank 0", "rank 1"]
        assert found["decision"] == "what rank 0 says"


def test_without_a_group_there_is_one_rank() -> None:
    """One process gathers itself, with its gradient, and agrees with itself."""
    features = _features().requires_grad_()
    _loss(0, gather(features)).backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, torch.autograd.grad(_loss(0, features), features)[0])
    assert (rank(), world_size()) == (0, 1)
    assert all_of_ranks("mine") == ["mine"]
    assert of_first_rank("mine") == "mine"


@pytest.mark.parametrize("function", [sum_over_ranks, mean_over_ranks, max_over_ranks])
def test_without_a_group_sums_are_copies_without_gradient(function: Any) -> None:
    """The result is the value itself, but another tensor, so that changing it changes no other."""
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    result = function(value)
    assert not result.requires_grad
    result += 1
    assert value.tolist() == [1, 2]


def test_a_process_group_is_left_even_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the context the process is one of a group; afterwards there is none."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in where.items():
        monkeypatch.setenv(name, value)

    def fail() -> None:
        with process_group(torch.device("cpu")):
            assert dist.is_initialized()
            assert sum_over_ranks(torch.tensor(2)) == 2
            raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        fail()
    assert not dist.is_initialized()


if __name__ == "__main__":
    folder = Path(sys.argv[3])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting-place",
        rank=int(sys.argv[1]),
        world_size=int(sys.argv[2]),
    )
    (folder / f"{rank()}.json").write_text(json.dumps(_process()))
    dist.destroy_process_group()
