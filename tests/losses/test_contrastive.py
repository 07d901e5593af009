"""The contrastive loss against open_clip, by gradients and at its limits.

Run as a script, this file is one of several processes: `RANK WORLD_SIZE FOLDER`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from safetensors.torch import load_file, save_file

from sseg_core.losses.contrastive import contrastive_loss


def _features(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=dtype)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_it_is_twice_the_clip_loss(scale: float) -> None:
    """Eq. 2-3 sum the two directions, where CLIP takes their mean."""
    image, text = _features(0)
    theirs = ClipLoss()(image, text, torch.tensor(scale))
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(scale)), 2 * theirs)


def test_both_modalities_count_alike() -> None:
    """Exchanging images and texts does not change the loss."""
    image, text = _features(1)
    scale = torch.tensor(5.0)
    torch.testing.assert_close(
        contrastive_loss(image, text, scale), contrastive_loss(text, image, scale)
    )


def test_equal_features_cost_the_entropy_of_a_guess() -> None:
    """When nothing can be told apart, each direction costs log B."""
    same = F.normalize(torch.ones(4, 3), dim=1)
    loss = contrastive_loss(same, same, torch.tensor(20.0))
    assert loss.item() == pytest.approx(2 * math.log(4))


def test_gradients_agree_with_finite_differences() -> None:
    """Analytic gradients of both features and of the temperature, in double precision."""
    image, text = (t.requires_grad_() for t in _features(2, torch.float64))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(contrastive_loss, (image, text, scale))


def _own_part(number: int, world: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return leaves that hold a rank's features, and the temperature."""
    image, text = (t.chunk(world)[number].clone().requires_grad_() for t in _features(3))
    return image, text, torch.tensor(7.0, requires_grad=True)


def _process(number: int, world: int) -> dict[str, torch.Tensor]:
    """Return the losses of one rank, ours and open_clip's, and their gradients."""
    theirs = ClipLoss(local_loss=True, gather_with_grad=True, rank=number, world_size=world)
    found = {}
    for name, function in (("ours", contrastive_loss), ("theirs", theirs)):
        leaves = _own_part(number, world)
        loss = function(*leaves)
        found[f"{name} loss"] = loss.detach()
        gradients = torch.autograd.grad(loss, leaves)
        for kind, gradient in zip(("image", "text", "scale"), gradients, strict=True):
            found[f"{name} {kind}"] = gradient.contiguous()
    return found


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(number), "2", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [load_file(folder / f"{number}.safetensors") for number in range(2)]


@pytest.mark.slow
def test_on_every_rank_it_is_twice_the_clip_loss(of_ranks: list[dict[str, torch.Tensor]]) -> None:
    """With negatives from all ranks, value and gradients are twice open_clip's local loss."""
    for found in of_ranks:
        for kind in ("loss", "image", "text", "scale"):
            torch.testing.assert_close(found[f"ours {kind}"], 2 * found[f"theirs {kind}"])


@pytest.mark.slow
def test_the_mean_over_ranks_is_the_loss_of_one_process(
    of_ranks: list[dict[str, torch.Tensor]],
) -> None:
    """So is the mean of the gradients: of the temperature, and of what the features came from."""
    leaves = _own_part(0, 1)
    loss = contrastive_loss(*leaves)
    image, text, scale = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(loss.detach(), sum(f["ours loss"] for f in of_ranks) / 2)
    torch.testing.assert_close(scale, sum(f["ours scale"] for f in of_ranks) / 2)
    # Each rank's features are its own alone; the mean over ranks halves their gradients.
    for name, whole in (("image", image), ("text", text)):
        torch.testing.assert_close(torch.cat([f[f"ours {name}"] for f in of_ranks]) / 2, whole)


if __name__ == "__main__":
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting-place",
        rank=rank,
        world_size=world_size,
    )
    save_file(_process(rank, world_size), folder / f"{rank}.safetensors")
    dist.destroy_process_group()
