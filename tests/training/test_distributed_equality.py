"""Any number of processes, with micro-batches or without, has the gradient of one process.

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
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from sseg_core.config import (
    BackboneConfig,
    DecoderConfig,
    LoaderConfig,
    LossConfig,
    ModelConfig,
    TextConfig,
)
from sseg_core.data.augment import Augmentation
from sseg_core.distributed import rank, world_size
from sseg_core.models.build import build_model
from sseg_core.models.embedding import Model
from sseg_core.structures import IGNORE_LABEL, Batch
from sseg_core.training.contrastive_step import ContrastiveStep

B, K = 8, 4
TIMEOUT_S = 240
DECODERS = {
    "query": {},
    "pooled": {"mask_feature": "pooled", "masked_attention": True},
    "captions only": {},
}
MASK_WEIGHTS = {"query": 0.5, "pooled": 0.5, "captions only": 0.0}
MICRO_BATCHES = {"plain": 1, "cached": 2}
CASES = [(decoder, kind) for decoder in DECODERS for kind in MICRO_BATCHES]


def _model(decoder: str) -> Model:
    """A network without BatchNorm and without randomness."""
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    sizes = {"num_queries": 6, "hidden_dim": 32, "layers": 2, "heads": 2, "feedforward_dim": 32}
    return build_model(
        ModelConfig(
            backbone=BackboneConfig(
                name="swin_tiny_patch4_window7_224",
                out_indices=(0, 1),
                options={**options, "drop_path_rate": 0.0},
            ),
            decoder=DecoderConfig(**{**sizes, "dropout": 0.0, **DECODERS[decoder]}),
            text=TextConfig(layers=1, width=32, heads=2, context_length=8),
            embed_dim=16,
        )
    ).train()


def _batch() -> Batch:
    """The whole batch: its first half has no masks at all, the rest has few and then many."""
    generator = torch.Generator().manual_seed(0)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    label_maps = integers(K, B, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label_maps[: B // 2] = IGNORE_LABEL
    label_maps[B // 2 : -1].clamp_(max=1)
    token_ids = integers(400, B, 6) + 1
    token_ids[:, 5] = 49407
    return Batch(
        images=integers(256, B, 3, 32, 32).to(torch.uint8),
        label_maps=label_maps.to(torch.uint8),
        token_ids=token_ids,
        keys=tuple(str(i) for i in range(B)),
    )


def _own_micro_batches(kind: str) -> list[Batch]:
    """Return the part of this rank, cut into as many micro-batches as the kind has."""
    batch, size = _batch(), B // (world_size() * MICRO_BATCHES[kind])
    assert batch.label_maps is not None
    first = rank() * B // world_size()
    return [
        Batch(
            images=batch.images[start : start + size],
            label_maps=batch.label_maps[start : start + size],
            token_ids=batch.token_ids[start : start + size],
            keys=batch.keys[start : start + size],
        )
        for start in range(first, first + B // world_size(), size)
    ]


def _run(decoder: str, kind: str) -> dict[str, Tensor]:
    """Return what the second step leaves on this rank: scalars, gradients, and the reductions.

    The second, for DistributedDataParallel must be fit for another after the first.
    """
    model = _model(decoder)
    reductions: list[int] = []
    network = None
    if world_size() > 1:
        network = DistributedDataParallel(model)
        network.register_comm_hook(
            reductions,
            lambda seen, bucket: _count(seen, bucket),  # noqa: PLW0108 - torch refuses annotations
        )
    step = ContrastiveStep(
        model,
        network=network,
        augment=Augmentation(
            LoaderConfig(load_size=32, crop_size=32, crop_scale=(1, 1), crop_ratio=(1, 1), flip=0)
        ),
        generator=None,
        num_segments=K,
        loss=LossConfig(mask=MASK_WEIGHTS[decoder], contrastive=2.0),
        device=torch.device("cpu"),
        autocast_dtype=None,
    )
    step(_own_micro_batches(kind))
    model.zero_grad()
    reductions.clear()
    output = step(_own_micro_batches(kind))
    results = {f"scalar {name}": value for name, value in output.scalars.items()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        results[f"gradient {name}"] = parameter.grad
    return {**results, "reductions": torch.tensor(len(reductions))}


def _count(reductions: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    reductions.append(bucket.index())
    return allreduce_hook(None, bucket)


def _process(folder: Path) -> None:
    """Run every case on this rank and write the results to a file of its own."""
    results = {}
    for decoder, kind in CASES:
        for name, value in _run(decoder, kind).items():
            results[f"{decoder} {kind} {name}"] = value.clone(memory_format=torch.contiguous_format)
    save_file(results, folder / f"{rank()}.safetensors")


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{}-processes".format
)
def of_ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Tensor]]:
    """What each rank of several processes wrote."""
    folder = tmp_path_factory.mktemp(f"world-{request.param}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [str(number) for number in range(request.param)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, number, str(request.param), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in ranks
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * request.param, outputs
    return [load_file(folder / f"{number}.safetensors") for number in ranks]


@cache
def _one_process(decoder: str) -> dict[str, Tensor]:
    """The step of one process with the whole batch in one piece."""
    return _values(_run(decoder, "plain"))


def _values(results: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in results.items() if name != "reductions"}


def _assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each value differs by less than 1e-5 of its length.

    A gradient that is zero but for rounding, as that of a key's bias in attention, is measured
    by the largest one instead.
    """
    largest = max(g.norm().item() for name, g in expected.items() if "gradient" in name)
    errors = {
        name: (actual[name] - value).norm().item() / max(value.norm().item(), 1e-4 * largest)
        for name, value in expected.items()
    }
    assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)


def _of_kind(results: dict[str, Tensor], decoder: str, kind: str) -> dict[str, Tensor]:
    prefix = f"{decoder} {kind} "
    found = {key.removeprefix(prefix): v for key, v in results.items() if key.startswith(prefix)}
    assert found
    return found


@pytest.mark.parametrize("decoder", DECODERS)
def test_micro_batches_of_one_process_have_its_gradient(decoder: str) -> None:
    """One process with micro-batches: the same loss and gradients as in one piece."""
    _assert_same(_values(_run(decoder, "cached")), _one_process(decoder))


@pytest.mark.parametrize(("decoder", "kind"), CASES)
def test_several_processes_have_the_loss_of_one(
    of_ranks: list[dict[str, Tensor]], decoder: str, kind: str
) -> None:
    """The means over ranks are the terms of one process, though ranks have unequal masks."""
    expected = _one_process(decoder)
    own = [_of_kind(results, decoder, kind) for results in of_ranks]
    assert own[0]["scalar dice"] == 0  # the first rank has no masks at all
    for name, value in expected.items():
        if name.startswith("scalar"):
            mean = torch.stack([results[name] for results in own]).mean()
            assert mean.item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize(("decoder", "kind"), CASES)
def test_several_processes_have_the_gradients_of_one(
    of_ranks: list[dict[str, Tensor]], decoder: str, kind: str
) -> None:
    """On every rank each parameter has, after the mean over ranks, the gradient of one process."""
    expected = {n: g for n, g in _one_process(decoder).items() if n.startswith("gradient")}
    for results in of_ranks:
        _assert_same(_of_kind(results, decoder, kind), expected)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_travel_once_a_step(of_ranks: list[dict[str, Tensor]], decoder: str) -> None:
    """With micro-batches there are as many reductions of gradients as without."""
    for results in of_ranks:
        plain, cached = (_of_kind(results, decoder, kind)["reductions"] for kind in MICRO_BATCHES)
        assert cached == plain > 0


if __name__ == "__main__":
    dist.init_process_group(
        "gloo",
        init_method=f"file://{sys.argv[3]}/meeting-place",
        rank=int(sys.argv[1]),
        world_size=int(sys.argv[2]),
    )
    _process(Path(sys.argv[3]))
    dist.destroy_process_group()
