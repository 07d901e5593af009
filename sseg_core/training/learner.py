"""What learns, and by which rule: model, training step and optimiser of one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sseg_core.checkpoint import load_weights
from sseg_core.config import TrainConfig
from sseg_core.data.augment import Augmentation
from sseg_core.distributed import rank, world_size
from sseg_core.models.build import Model, build_model
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import Batch
from sseg_core.training.contrastive_step import ContrastiveStep, StepOutput
from sseg_core.training.optimizer import make_optimizer

_SEED_OF_RANK = 7919  # a prime, so that seeds 0, 1, 2 with several ranks stay apart


@dataclass
class Learner:
    """What learns, and by which rule.

    Attributes:
        model: whose weights are saved.
        backward: sums up the gradient of micro-batches, the mean over ranks included.
        optimizer: steps on it.
        scaler: of fp16, else None.
        ema: moving average of the weights, if there is one.
    """

    model: Model
    backward: Callable[[Sequence[Batch]], StepOutput]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    ema: AveragedModel | None

    @property
    def result(self) -> Model:
        """The weights that are scored and published."""
        if self.ema is None:
            return self.model
        assert isinstance(self.ema.module, Model)
        return self.ema.module


def build_learner(
    config: TrainConfig, num_segments: int, device: torch.device, *, start: Path | None
) -> Learner:
    """Build model, training step and optimiser, the same on every rank but for its randomness.

    Args:
        config: of the run, resolved.
        num_segments: K: the segment ids of the masks are below it.
        device: of this process.
        start: weight file of a checkpoint to start from, if any.

    Raises:
        ArtifactError: the weights to start from are of another model, or damaged.
        ConfigError: the configuration describes no network.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if start is not None:
        load_weights(model, start)
    model = model.to(device)
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
    generator = None
    if config.masks.source == "online":
        generator = PseudoMaskGenerator(config.masks.generator, device)
    dtype = autocast_dtype(config.precision, device)
    scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
    step = ContrastiveStep(
        model,
        network=network,
        augment=Augmentation(config.loader),
        generator=generator,
        num_segments=num_segments,
        loss=config.loss,
        device=device,
        autocast_dtype=dtype,
        scaler=scaler,
    )
    ema = None
    if config.ema_decay:
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return Learner(model, step, make_optimizer(model, config.optim), scaler, ema)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of the forward pass under autocast; None for plain fp32."""
    if precision == "auto":
        is_able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if is_able else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
