"""From batches to gradients: one training step, whole or in micro-batches (GradCache).

The contrastive loss compares every image with every text of the batch, so a batch that does not
fit the device cannot simply be cut: the negatives would be lost. Gao et al. 2021 ("Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup") go over the micro-batches twice: for
the features, then, with the gradient of the loss with respect to those, for the gradients of the
parameters. The result is the gradient of the whole batch, and only one micro-batch at a time is
on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from sseg_core.config import LossConfig
from sseg_core.data.augment import Augmentation
from sseg_core.losses.contrastive import contrastive_loss
from sseg_core.losses.criterion import count_masks, criterion, mask_losses, masks_per_rank
from sseg_core.models.embedding import Model
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import Batch, SegmenterOutput
from sseg_core.training.step_output import StepOutput


@dataclass(frozen=True)
class _FirstPass:
    """What the first pass over a micro-batch leaves for the loss and for the second pass."""

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor
    num_masks: Tensor
    random_states: tuple[Tensor, ...]
    online_masks: Tensor | None


class ContrastiveStep:
    """Adds the gradient of the loss of a whole batch (S-Seg Eq. 4) to `.grad` of the parameters.

    With several processes each calls it with its part of the batch, of the same size on every
    rank; the gradient is averaged over the ranks where `network` does so.

    Args:
        model: what learns, in training mode; it gets the label maps as its third argument where
            its `reads_masks` is set.
        network: what the forward pass goes through: `model` (the default), `model` compiled, or
            either within DistributedDataParallel.
        augment: makes float crops of the loader's images.
        generator: makes the masks of each crop; None where the batches bring their own.
        num_segments: K, as in `criterion`.
        loss: the weights.
        device: of the model.
        autocast_dtype: type of the forward pass; None for that of the weights.
        scaler: scales what is differentiated, for fp16.
    """

    def __init__(
        self,
        model: Model,
        *,
        network: nn.Module | None = None,
        augment: Augmentation,
        generator: PseudoMaskGenerator | None,
        num_segments: int,
        loss: LossConfig,
        device: torch.device,
        autocast_dtype: torch.dtype | None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._model = model
        self._network = network or model
        # For the pass without gradients, which DistributedDataParallel has no part in.
        self._local_network = self._network
        if isinstance(self._network, DistributedDataParallel):
            self._local_network = self._network.module
        self._augment = augment
        self._generator = generator
        self._num_segments = num_segments
        self._loss = loss
        self._device = device
        self._autocast_dtype = autocast_dtype
        self._scaler = scaler

    def __call__(self, micro_batches: Sequence[Batch]) -> StepOutput:
        """Add the gradient of the batch that the micro-batches make up together.

        Several micro-batches are forwarded twice, with the same crops, masks and dropout; the
        random generators end as after one pass, and BatchNorm's statistics count it once. As
        BatchNorm normalises within a micro-batch, its gradient is not quite that of the batch in
        one piece; with other norms it is, but for rounding.

        Args:
            micro_batches: this rank's part of the batch, on the host as the loader yields it.
        """
        if len(micro_batches) > 1:
            return self._step_in_parts(micro_batches)
        batch = self._prepare(micro_batches[0])
        output = self._forward(self._network, batch)
        assert batch.label_maps is not None
        terms = criterion(output, batch.label_maps, self._num_segments, self._loss)
        self._backward(terms.total)
        scalars = {**terms.detached(), "logit_scale": output.logit_scale.detach()}
        finite = _are_finite(output.image_features, output.text_features)
        return StepOutput(scalars, finite, batch.keys)

    def _step_in_parts(self, micro_batches: Sequence[Batch]) -> StepOutput:
        with torch.no_grad(), _statistics_at_rest(self._model):
            firsts = [self._first_pass(batch) for batch in micro_batches]
        image_features = torch.cat([first.image_features for first in firsts]).requires_grad_()
        text_features = torch.cat([first.text_features for first in firsts]).requires_grad_()
        logit_scale = firsts[0].logit_scale.requires_grad_()
        contrastive = contrastive_loss(image_features, text_features, logit_scale)
        image_gradient, text_gradient, scale_gradient = torch.autograd.grad(
            self._loss.contrastive * contrastive, (image_features, text_features, logit_scale)
        )

        sizes = [len(batch.keys) for batch in micro_batches]
        num_masks = masks_per_rank(torch.stack([first.num_masks for first in firsts]).sum())
        # Each micro-batch takes its share of the scale's gradient, so that all are alike.
        shares = [scale_gradient / len(sizes)] * len(sizes)
        gradients = zip(
            torch.split(image_gradient, sizes),
            torch.split(text_gradient, sizes),
            shares,
            strict=True,
        )
        *earlier, last = zip(micro_batches, firsts, gradients, strict=True)
        with self._gradients_stay_here():
            losses = [self._second_pass(*part, num_masks) for part in earlier]
        losses.append(self._second_pass(*last, num_masks))

        total, dice, focal = torch.stack(losses).sum(0)
        scalars = {
            "loss": total + self._loss.contrastive * contrastive.detach(),
            "contrastive": contrastive.detach(),
            "dice": dice,
            "focal": focal,
            "logit_scale": logit_scale.detach(),
        }
        keys = tuple(key for batch in micro_batches for key in batch.keys)
        return StepOutput(scalars, _are_finite(image_features, text_features), keys)

    def _first_pass(self, batch: Batch) -> _FirstPass:
        random_states = _random_states(self._device)
        batch = self._prepare(batch)
        output = self._forward(self._local_network, batch)
        assert batch.label_maps is not None
        h, w = output.masks.mask_logits.shape[-2:]
        return _FirstPass(
            image_features=output.image_features.float(),
            text_features=output.text_features.float(),
            logit_scale=output.logit_scale.float(),
            num_masks=count_masks(batch.label_maps, (h, w), self._num_segments),
            random_states=random_states,
            online_masks=None if self._generator is None else batch.label_maps,
        )

    def _second_pass(
        self,
        batch: Batch,
        first: _FirstPass,
        gradients: tuple[Tensor, Tensor, Tensor],
        num_masks: Tensor,
    ) -> Tensor:
        """Backpropagate a micro-batch; return [3], its total, dice and focal mask losses."""
        _set_random_states(self._device, first.random_states)
        batch = self._prepare(batch, first.online_masks)
        output = self._forward(self._network, batch)
        assert batch.label_maps is not None
        masks = mask_losses(
            output.masks, batch.label_maps, self._num_segments, self._loss, num_masks
        )
        # Its gradient is that of the contrastive loss, by the chain rule.
        outputs = (output.image_features, output.text_features, output.logit_scale)
        products = [(value * g).sum() for value, g in zip(outputs, gradients, strict=True)]
        self._backward(masks.total + sum(products))
        return torch.stack([masks.total, masks.dice, masks.focal]).detach()

    def _prepare(self, batch: Batch, online_masks: Tensor | None = None) -> Batch:
        """Return the batch on the device, augmented, with its masks."""
        batch = self._augment(batch.to(self._device))
        if self._generator is None:
            return batch
        if online_masks is None:
            online_masks = self._generator(batch.images, batch.keys)
        return replace(batch, label_maps=online_masks)

    def _forward(self, network: nn.Module, batch: Batch) -> SegmenterOutput:
        inputs = [batch.images, batch.token_ids]
        if self._model.reads_masks:
            assert batch.label_maps is not None
            inputs.append(batch.label_maps)
        dtype = self._autocast_dtype
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
            output: SegmenterOutput = network(*inputs)
        return output

    def _backward(self, loss: Tensor) -> None:
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def _gradients_stay_here(self) -> AbstractContextManager[None]:
        if isinstance(self._network, DistributedDataParallel):
            return self._network.no_sync()
        return nullcontext()


def _are_finite(image_features: Tensor, text_features: Tensor) -> Tensor:
    return (image_features.isfinite() & text_features.isfinite()).all(dim=1)


@contextmanager
def _statistics_at_rest(model: nn.Module) -> Iterator[None]:
    """Let every BatchNorm in training normalise by its batch without counting it."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _random_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the states of the host's generator and of the device's, if it has its own."""
    if device.type == "cuda":
        return torch.get_rng_state(), torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.get_rng_state(), torch.mps.get_rng_state()
    return (torch.get_rng_state(),)


def _set_random_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])
