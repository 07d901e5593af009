"""Augmentation of image and mask together, on the device of the batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJitter,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

from sseg_core.config import LoaderConfig
from sseg_core.structures import Batch


class Augmentation:
    """Random resized crop (S-Seg Table 5), flip and, if asked for, colour jitter.

    Image and label map go through the same crop and flip; the label map by nearest neighbour, so
    that it holds no ids but its own. All randomness comes from torch's global CPU generator.
    """

    def __init__(self, config: LoaderConfig) -> None:
        # "slice" crops one image after the other: exact, and on the CPU a third faster. "resample"
        # is one kernel for the whole batch, which is what a GPU wants.
        self._on_cpu = _pipeline(config, "slice")
        self._on_accelerator = _pipeline(config, "resample")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with images [B, 3, S, S] float in [0, 1] and label maps [B, S, S] uint8.

        S is `crop_size`. A batch without label maps stays without.
        """
        images = batch.images.float() / 255
        pipeline = self._on_cpu if images.device.type == "cpu" else self._on_accelerator
        if batch.label_maps is None:
            return replace(batch, images=pipeline(images, data_keys=["input"]))
        images, masks = pipeline(images, batch.label_maps[:, None].float())
        return replace(batch, images=images, label_maps=masks[:, 0].to(torch.uint8))


def _pipeline(config: LoaderConfig, cropping_mode: str) -> AugmentationSequential:
    strength = config.color_jitter
    jitter = [ColorJitter(strength, strength, strength, 0.0, p=1.0)] if strength else []
    return AugmentationSequential(
        RandomResizedCrop(
            (config.crop_size, config.crop_size),
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            cropping_mode=cropping_mode,
        ),
        RandomHorizontalFlip(p=config.flip),
        *jitter,
        data_keys=["input", "mask"],
    )
