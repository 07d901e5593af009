"""Augmentation of labelled crops on the device of the batch: mirrored, and in other colours.

The colours as in the PhotoMetricDistortion of mmsegmentation, whose pipelines BEiT's UperNet
follows (S-Seg App. A.2): each of four distortions in half of the images, brightness first, hue
behind saturation, contrast before these two or behind them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from kornia.augmentation import (
    ImageSequential,
    RandomBrightness,
    RandomContrast,
    RandomHorizontalFlip,
    RandomHue,
    RandomSaturation,
)
from torch import Tensor

from sseg_core.config import CropConfig
from sseg_core.structures import LabelledBatch

_BRIGHTNESS = 32 / 255  # added at most, or taken away
_CONTRAST = 0.5  # all channels times 0.5 to 1.5
_SATURATION = 0.5  # that of HSV, likewise
_HUE = 18 / 180  # of a turn of HSV's circle
_EACH = 0.5  # probability


class LabelledAugmentation:
    """Horizontal flip and photometric distortion.

    All randomness comes from torch's global CPU generator.

    Args:
        config: how often images are mirrored, and the strength of the distortion.
    """

    def __init__(self, config: CropConfig) -> None:
        self._flip = RandomHorizontalFlip(p=config.flip)
        self._strength = config.photometric
        brightness = RandomBrightness(_around_one(_BRIGHTNESS * self._strength), p=_EACH)
        contrast = RandomContrast(_around_one(_CONTRAST * self._strength), p=_EACH)
        saturation = RandomSaturation(_around_one(_SATURATION * self._strength), p=_EACH)
        hue = RandomHue((-_HUE * self._strength, _HUE * self._strength), p=_EACH)
        self._contrast_early = ImageSequential(brightness, contrast, saturation, hue)
        self._contrast_late = ImageSequential(brightness, saturation, hue, contrast)

    @torch.no_grad()
    def __call__(self, batch: LabelledBatch) -> LabelledBatch:
        """Return the batch, images uint8 before and float in [0, 1] after, labels int16."""
        # What kornia drew, before there are floats: its own way copies them several times over.
        drawn = self._flip.forward_parameters(batch.images.shape)["batch_prob"] > 0
        is_flipped = drawn.to(batch.images.device)
        images = torch.where(is_flipped[:, None, None, None], batch.images.flip(3), batch.images)
        maps = batch.label_maps
        maps = torch.where(is_flipped[:, None, None], maps.flip(2), maps)
        images = images.float().div_(255)
        if self._strength:
            images = self._distorted(images)
        return replace(batch, images=images, label_maps=maps)

    def _distorted(self, images: Tensor) -> Tensor:
        is_early = torch.rand(len(images)) < 0.5
        for chosen, distortion in (
            (is_early, self._contrast_early),
            (~is_early, self._contrast_late),
        ):
            indices = chosen.nonzero()[:, 0].to(images.device)
            if len(indices):
                images[indices] = distortion(images[indices])
        return images


def _around_one(distance: float) -> tuple[float, float]:
    return (1 - distance, 1 + distance)
