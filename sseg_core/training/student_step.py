"""The training step of a student in self-training: labelled crops in, gradients out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sseg_core.config import StudentConfig
from sseg_core.data.photometric import LabelledAugmentation
from sseg_core.losses.segmentation import (
    SegmentationLosses,
    count_valid,
    segmentation_loss,
    valid_per_rank,
)
from sseg_core.models.student import Student, build_student, with_synced_batch_norm
from sseg_core.structures import LabelledBatch
from sseg_core.training.learner import Learner, Means, make_learner
from sseg_core.training.step_output import StepOutput


class StudentStep:
    """Adds the gradient of the loss of a whole batch to `.grad` of the parameters.

    With several processes each calls it with its part of the batch; the gradient is averaged over
    the ranks by DistributedDataParallel, and every pixel that counts weighs the same, whichever
    rank or micro-batch it is in. Only BatchNorm normalises within a micro-batch.

    Args:
        config: augmentation and weights of the loss.
        means: what it computes with.
    """

    def __init__(self, config: StudentConfig, means: Means) -> None:
        self._loss = config.loss
        self._augment = LabelledAugmentation(config.loader)
        self._means = means

    def __call__(self, micro_batches: Sequence[LabelledBatch]) -> StepOutput:
        """Add the gradient of the batch that the micro-batches make up together.

        Args:
            micro_batches: this rank's part of the batch, on the host as the loader yields it.
        """
        counts = torch.stack([count_valid(batch.label_maps) for batch in micro_batches])
        valid = valid_per_rank(counts.sum().to(self._means.device))
        parts = []
        for number, batch in enumerate(micro_batches, start=1):
            with self._gradients_stay_here(last=number == len(micro_batches)):
                parts.append(self._backward(batch, valid))
        losses = [losses for losses, _ in parts]
        scalars = {
            "loss": torch.stack([part.total for part in losses]).sum().detach(),
            "cross_entropy": torch.stack([part.cross_entropy for part in losses]).sum(),
            "accuracy": 100 * torch.stack([part.accuracy for part in losses]).sum(),
        }
        auxiliary = [part.auxiliary for part in losses if part.auxiliary is not None]
        if auxiliary:
            scalars["auxiliary"] = torch.stack(auxiliary).sum()
        return StepOutput(
            scalars=scalars,
            finite=torch.cat([finite for _, finite in parts]),
            keys=tuple(key for batch in micro_batches for key in batch.keys),
        )

    def _backward(self, batch: LabelledBatch, valid: Tensor) -> tuple[SegmentationLosses, Tensor]:
        """Return the losses of a micro-batch, and whether each image's logits are finite."""
        means = self._means
        batch = self._augment(batch.to(means.device))
        with torch.autocast(
            means.device.type, means.autocast_dtype, enabled=means.autocast_dtype is not None
        ):
            output = means.network(batch.images)
        losses = segmentation_loss(output, batch.label_maps, self._loss, valid)
        total = losses.total if means.scaler is None else means.scaler.scale(losses.total)
        torch.autograd.backward(total)
        return losses, output.logits.detach().isfinite().flatten(1).all(dim=1)

    def _gradients_stay_here(self, *, last: bool) -> AbstractContextManager[None]:
        network = self._means.network
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        return network.no_sync()


def build_student_learner(config: StudentConfig, device: torch.device) -> Learner:
    """Build what learns in `sseg selftrain`; see `make_learner`.

    Raises:
        ConfigError: the configuration describes no network.
        ArtifactError: the weight file of the backbone is unreadable or of another model.
        SsegError: the pretrained weights are neither cached nor reachable.
    """

    def build() -> Student:
        return with_synced_batch_norm(build_student(config.model), device)

    def step(_: Student, means: Means) -> StudentStep:
        return StudentStep(config, means)

    return make_learner(config, device, build=build, step=step)
