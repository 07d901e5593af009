"""What learns, and by which rule: model, training step and optimiser of one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sseg_core.checkpoint import load_weights
from sseg_core.config import RunConfig, TrainConfig
from sseg_core.data.augment import Augmentation
from sseg_core.distributed import rank, world_size
from sseg_core.models.build import Model, build_model
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.training.contrastive_step import ContrastiveStep
from sseg_core.training.optimizer import make_optimizer
from sseg_core.training.step_output import StepOutput

M = TypeVar("M", bound=nn.Module)

_SEED_OF_RANK = 7919  # a prime, so that seeds 0, 1, 2 with several ranks stay apart


Step = Callable[[Sequence[Any]], StepOutput]
"""Sums up the gradient of micro-batches, the mean over ranks included."""


@dataclass
class Learner:
    """What learns, and by which rule.

    Attributes:
        model: whose weights are saved.
        backward: the training step, up to the gradients.
        optimizer: steps on them.
        scaler: of fp16, else None.
        ema: moving average of the weights, if there is one.
    """

    model: nn.Module
    backward: Step
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    ema: AveragedModel | None

    @property
    def result(self) -> nn.Module:
        """The weights that are scored and published."""
        if self.ema is None:
            return self.model
        assert isinstance(self.ema.module, nn.Module)
        return self.ema.module


@dataclass(frozen=True)
class Means:
    """What a training step computes with.

    Attributes:
        network: what the forward pass goes through: the model, or the model within
            DistributedDataParallel.
        device: of the model.
        autocast_dtype: type of the forward pass; None for that of the weights.
        scaler: scales what is differentiated, for fp16.
    """

    network: nn.Module
    device: torch.device
    autocast_dtype: torch.dtype | None
    scaler: torch.amp.GradScaler | None


def make_learner(
    config: RunConfig,
    device: torch.device,
    *,
    build: Callable[[], M],
    step: Callable[[M, Means], Step],
) -> Learner:
    """Build model, training step and optimiser, the same on every rank but for its randomness.

    Args:
        config: of the run.
        device: of this process.
        build: returns the model with the weights that it starts from, on the host.
        step: returns the training step of the model.

    Raises:
        ConfigError: there is a layer decay, and timm does not know the layers of the backbone.
    """
    torch.manual_seed(config.seed)
    model = build().to(device)
    if rank() != 0:
        torch.manual_seed(config.seed + _SEED_OF_RANK * rank())
    if config.compile:
        model.compile()
    network: nn.Module = model
    if world_size() > 1:
        # The gradient of a 1 x 1 convolution counts its axes of length 1 in another way than the
        # bucket does; the memory is the same.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        ids = [device.index or 0] if device.type == "cuda" else None
        network = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    dtype = autocast_dtype(config.precision, device)
    scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
    ema = None
    if config.ema_decay:
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return Learner(
        model,
        step(model, Means(network, device, dtype, scaler)),
        make_optimizer(model, config.optim),
        scaler,
        ema,
    )


def build_learner(
    config: TrainConfig, num_segments: int, device: torch.device, *, start: Path | None
) -> Learner:
    """Build what learns in `sseg train`; see `make_learner`.

    Args:
        config: of the run, resolved.
        num_segments: K: the segment ids of the masks are below it.
        device: of this process.
        start: weight file of a checkpoint to start from, if any.

    Raises:
        ArtifactError: the weights to start from are of another model, or damaged.
        ConfigError: the configuration describes no network.
    """

    def build() -> Model:
        model = build_model(config.model)
        if start is not None:
            load_weights(model, start)
        return model

    def step(model: Model, means: Means) -> ContrastiveStep:
        generator = None
        if config.masks.source == "online":
            generator = PseudoMaskGenerator(config.masks.generator, device)
        return ContrastiveStep(
            model,
            network=means.network,
            augment=Augmentation(config.loader),
            generator=generator,
            num_segments=num_segments,
            loss=config.loss,
            device=means.device,
            autocast_dtype=means.autocast_dtype,
            scaler=means.scaler,
        )

    return make_learner(config, device, build=build, step=step)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of the forward pass under autocast; None for plain fp32."""
    if precision == "auto":
        is_able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if is_able else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
