"""Many processes as one: gathering with gradients, sums and agreements between ranks.

Without a process group every function does what it does for a group of one: nothing, or a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up; the first one may be scoring a probe."""


def rank() -> int:
    """Return the number of this process, 0 for the first or only one."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if _in_group() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe, and leave it.

    What lies on GPUs goes through NCCL, all else through gloo: a word between hosts, such as that
    a signal came, must not wait for a GPU.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(features: Tensor) -> Tensor:
    """Return the features of all ranks, in order of rank, with gradients to where they came from.

    The gradient that reaches a rank's features is the sum of those of all ranks' results. With
    parameter gradients averaged over ranks, as DistributedDataParallel does, a loss that each rank
    means over its own rows has thus the gradient of the mean over all rows.

    Args:
        features: [B, ...], of the same shape on every rank.

    Returns:
        [world_size * B, ...]; rows from `rank() * B` on are this rank's.
    """
    if world_size() == 1:
        return features
    gathered: Tensor = _Gather.apply(features)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.shape = features.shape
        gathered = features.new_empty(world_size() * len(features), *features.shape[1:])
        _all_gather(gathered, features.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        own = gradients[0].new_empty(ctx.shape)
        _reduce_scatter(own, gradients[0].contiguous())
        return own


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, without gradient."""
    return sum_over_ranks(value) / world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """Return the largest of a tensor over all ranks, element by element, without gradient."""
    largest = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def all_of_ranks(value: T) -> list[T]:
    """Return the picklable values of all ranks, in order of rank."""
    values: list[T] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def of_first_rank(value: T) -> T:
    """Return the picklable value of rank 0; what the other ranks pass is not looked at."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_gather(output: Tensor, own: Tensor) -> None:
    # Named so since torch 2.13; before, all_gather_into_tensor.
    function = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    function(output, own)


def _reduce_scatter(own: Tensor, all_parts: Tensor) -> None:
    function = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    function(own, all_parts)
