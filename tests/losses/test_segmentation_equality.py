"""A student learns the same from micro-batches and from several processes as from one batch.

Run as a script, this file is one of the processes: `RANK WORLD_SIZE FOLDER`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sseg_core.config import BackboneConfig, StudentLossConfig, UperNetConfig
from sseg_core.distributed import rank, world_size
from sseg_core.losses.segmentation import count_valid, segmentation_loss, valid_per_rank
from sseg_core.models.student import Student, build_student
from sseg_core.structures import VOID

B, C, H, W = 4, 5, 30, 44
WORLD = 2
TIMEOUT_S = 240
CONFIG = StudentLossConfig(auxiliary=0.4)


def _label_maps() -> Tensor:
    """Every label there is; the first image does not count at all, the second in part."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randint(VOID, C - 1, (B, H, W), generator=generator, dtype=torch.int16)
    maps[0] = VOID
    maps[1, 5:] = VOID
    return maps


def _student() -> Student:
    """A network whose norms and dropout do not depend on how a batch is divided."""
    torch.manual_seed(0)
    config = UperNetConfig(
        backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)),
        channels=8, auxiliary_channels=8, class_names=("a", "b", "c", "d"), has_background=True,
    )  # fmt: skip
    student = build_student(config).train()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.eval()
    return student


def _step(micro_batches: int) -> dict[str, Tensor]:
    """Return the scalars of this rank and the gradients after its part of the batch."""
    student = _student()
    network = DistributedDataParallel(student) if world_size() > 1 else student
    images = torch.rand(B, 3, H, W, generator=torch.Generator().manual_seed(3))
    size = B // world_size()
    own = slice(rank() * size, (rank() + 1) * size)
    images, label_maps = images[own], _label_maps()[own]
    valid = valid_per_rank(count_valid(label_maps))
    parts = []
    for number, (pixels, labels) in enumerate(
        zip(images.chunk(micro_batches), label_maps.chunk(micro_batches), strict=True), start=1
    ):
        if isinstance(network, DistributedDataParallel):
            network.require_backward_grad_sync = number == micro_batches
        losses = segmentation_loss(network(pixels), labels, CONFIG, valid)
        losses.total.backward()
        parts.append(losses)
    results = {
        f"scalar {name}": torch.stack([getattr(part, name).detach() for part in parts]).sum()
        for name in ("total", "accuracy", "auxiliary")
    }
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        results[f"gradient {name}"] = parameter.grad.contiguous()
    return results


def _steps() -> dict[str, Tensor]:
    """Of this process: undivided, and in two micro-batches where they have two images."""
    results = {f"1 {name}": value for name, value in _step(1).items()}
    if world_size() == 1:
        results.update({f"2 {name}": value for name, value in _step(2).items()})
    return results


@cache
def _one_process() -> dict[str, Tensor]:
    return _steps()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes has: the first with few counted pixels, the second with many."""
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
    return [load_file(folder / f"{number}.safetensors") for number in range(WORLD)]


def _assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each differs by less than 1e-5 of its length, or of a small share of the largest."""
    gradients = {name: value for name, value in expected.items() if "gradient" in name}
    largest = max(value.norm().item() for value in gradients.values())
    errors = {
        name: (actual[name] - value).norm().item() / max(value.norm().item(), 1e-4 * largest)
        for name, value in gradients.items()
    }
    assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)


def _divided_by(number: int, results: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(f"{number} "): v for n, v in results.items() if n[0] == str(number)}


def test_a_student_learns_the_same_from_micro_batches() -> None:
    """Through the whole network: the gradient of every parameter."""
    _assert_same_gradients(_divided_by(2, _one_process()), _divided_by(1, _one_process()))


def test_two_processes_have_the_loss_and_gradients_of_one(
    of_ranks: list[dict[str, Tensor]],
) -> None:
    """Means over ranks are the numbers of one process; each rank has its gradients."""
    expected = _divided_by(1, _one_process())
    own = [_divided_by(1, results) for results in of_ranks]
    assert own[0]["scalar total"] < 0.2 * own[1]["scalar total"]  # unequal parts
    for name in ("total", "accuracy", "auxiliary"):
        mean = (own[0][f"scalar {name}"] + own[1][f"scalar {name}"]) / 2
        torch.testing.assert_close(mean, expected[f"scalar {name}"])
    for results in own:
        _assert_same_gradients(results, expected)


if __name__ == "__main__":
    where = Path(sys.argv[3])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{where}/meeting-place",
        rank=int(sys.argv[1]),
        world_size=int(sys.argv[2]),
    )
    save_file(_steps(), where / f"{rank()}.safetensors")
    dist.destroy_process_group()
