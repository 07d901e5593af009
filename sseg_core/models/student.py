"""The student of self-training: UperNet on a backbone, for a fixed list of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from sseg_core.config import UperNetConfig
from sseg_core.distributed import world_size
from sseg_core.errors import ConfigError
from sseg_core.models.backbone import Backbone
from sseg_core.models.feature_pyramid import SCALES, FeaturePyramid
from sseg_core.models.image_network import ImageNetwork, covering
from sseg_core.models.linear import use_pointwise
from sseg_core.models.upernet import FCNHead, UperHead
from sseg_core.structures import ClassLogits

FEWEST_LEVELS = 3
"""The auxiliary head is on the third level."""

N = TypeVar("N", bound=nn.Module)


class Student(ImageNetwork):
    """UperNet on any backbone of at least three levels (S-Seg Sec. 3.3.4, App. A.2).

    The four maps of a plain ViT, which are all of one size, become levels by `FeaturePyramid`.
    Backbones with levels of several sizes are used as they are.

    Args:
        config: sizes of all parts, and the classes.

    Raises:
        ConfigError: there are less than two things to tell apart, or too few levels, or a ViT has
            not four; else as `Backbone`.
        ArtifactError: as `Backbone`.
        SsegError: as `Backbone`.

    Attributes:
        config: as given.
        stride: pixels of the input image per cell of the logits.
    """

    stride: int

    def __init__(self, config: UperNetConfig) -> None:
        super().__init__()
        num_outputs = _num_outputs(config)
        self.config = config
        self.backbone = Backbone(config.backbone)
        channels, strides = self.backbone.channels, self.backbone.strides
        is_plain = len(set(strides)) == 1
        _check_levels(strides)
        self.pyramid = FeaturePyramid(channels) if is_plain else nn.Identity()
        scales = SCALES if is_plain else [Fraction(1)] * len(strides)
        self._coarsest = int(strides[-1] / scales[-1])
        self.stride = _whole_stride(strides[0] / scales[0], self._coarsest)
        # Patches of 14 pixels, see `_whole_stride`.
        self._is_uneven = self.stride != strides[0] / scales[0]
        self.head = UperHead(
            channels,
            config.channels,
            num_outputs,
            pool_sizes=config.pool_sizes,
            dropout=config.dropout,
        )
        self.auxiliary_head = (
            FCNHead(channels[2], config.auxiliary_channels, num_outputs, dropout=config.dropout)
            if config.auxiliary
            else None
        )
        use_pointwise(self)

    def forward(self, images: Tensor) -> ClassLogits:
        """Return the logits of the classes in order, and of background last where it is one.

        Images of any size are padded with the mean colour, right and below, to whole cells of the
        coarsest level. Cells of the logits that hold only padding are cut off, but not in training,
        where the auxiliary head's cells are larger and the loss lays both over the same pixels.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], H and W at least 1.

        Returns:
            float32 logits, even under autocast; of the auxiliary head in training mode only.

        Raises:
            ConfigError: in training there is only one image, and a pool of one cell: BatchNorm has
                nothing to compare it with.
        """
        if self.training:
            self._check_statistics(len(images))
        height, width = images.shape[-2:]
        padded = self._normalised(images, self._coarsest)
        # Convolutions keep this memory format down to the logits.
        levels = self.pyramid(self.backbone(padded.contiguous(memory_format=torch.channels_last)))
        logits = self.head(levels).float()
        if self._is_uneven:
            grid = (padded.shape[2] // self.stride, padded.shape[3] // self.stride)
            logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
        auxiliary = None
        if self.training and self.auxiliary_head is not None:
            auxiliary = self.auxiliary_head(levels[2]).float()
        if not self.training:
            logits = logits[..., : covering(height, self.stride), : covering(width, self.stride)]
        return ClassLogits(logits=logits, auxiliary=auxiliary, stride=self.stride)

    def _check_statistics(self, num_images: int) -> None:
        is_synced = world_size() > 1 and isinstance(self.head.pooled[1], nn.SyncBatchNorm)
        if num_images == 1 and 1 in self.config.pool_sizes and not is_synced:
            raise ConfigError(
                "UperNet pools an image to a single cell, and BatchNorm cannot learn from one such "
                "cell at a time.",
                "Give each process and each micro-batch two images or more: raise batch_size, or "
                "divide it less.",
            )


def build_student(config: UperNetConfig) -> Student:
    """Return the network that `config` describes, with fresh weights, in training mode.

    Raises:
        ConfigError: the configuration describes no network, see `Student`.
        ArtifactError: the weight file of the backbone is unreadable or of another model.
        SsegError: pretrained backbone weights are not available.
    """
    return Student(config)


def with_synced_batch_norm(model: N, device: torch.device) -> N:
    """Return the model with the statistics of its BatchNorms taken over all processes on GPUs.

    As in mmsegmentation. The parameters stay the same objects under the same names. With one
    process nothing changes; nor on a CPU, for which torch has no such norm: there each process
    normalises by the statistics of its own part of the batch.

    Args:
        model: before it is wrapped for many processes.
        device: where it will compute.
    """
    if world_size() == 1 or device.type != "cuda":
        return model
    # timm's converter, for torch's would drop the activation that timm puts in some norms.
    return cast("N", convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]


def _num_outputs(config: UperNetConfig) -> int:
    if not config.class_names:
        raise ConfigError(
            "The student has no classes to tell apart.",
            "They come from its labels: run sseg selftrain, or set model.class_names.",
        )
    num_outputs = len(config.class_names) + config.has_background
    if num_outputs < 2:
        raise ConfigError(
            "The student has one class and no background, so that there is nothing to tell apart.",
            "Use labels of more classes, or with background.",
        )
    return num_outputs


def _check_levels(strides: Sequence[int]) -> None:
    if len(set(strides)) == 1 and len(strides) != len(SCALES):
        raise ConfigError(
            f"UperNet makes a pyramid of {len(SCALES)} maps of one size, and the backbone returns "
            f"{len(strides)}.",
            "Set model.backbone.out_indices to four, such as [3, 5, 7, 11] of a ViT with 12 blocks "
            "(or to levels of several sizes, where the backbone has them).",
        )
    if len(strides) < FEWEST_LEVELS:
        raise ConfigError(
            f"UperNet needs {FEWEST_LEVELS} levels or more, and the backbone returns "
            f"{len(strides)}.",
            "Name more in model.backbone.out_indices, or leave it out for all levels.",
        )


def _whole_stride(finest: Fraction, coarsest: int) -> int:
    """Return the smallest whole stride that is not finer and that divides the coarsest.

    The finest level itself but for patches of 14 pixels, whose cells would have a side of 3.5: 4
    (our choice, not in the paper).
    """
    return next(n for n in range(math.ceil(finest), coarsest + 1) if coarsest % n == 0)
