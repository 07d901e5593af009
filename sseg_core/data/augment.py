"""Augmentation of image and mask together, on the device of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from kornia.augmentation import (
    AugmentationSequential,
    ColorJitter,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from torch import Tensor

from sseg_core.config import LoaderConfig
from sseg_core.device import use_one_thread
from sseg_core.structures import Batch


class Augmentation:
    """Random resized crop (S-Seg Table 5), flip and, if asked for, colour jitter.

    Image and label map go through the same crop and flip; the label map by nearest neighbour, so
    that it holds no ids but its own. All randomness comes from torch's global CPU generator.
    """

    def __init__(self, config: LoaderConfig) -> None:
        side, strength = config.crop_size, config.color_jitter
        # "resample" is one kernel for the whole batch, which is what a GPU wants.
        self._crop = RandomResizedCrop(
            (side, side),
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            cropping_mode="resample",
        )
        self._flip = RandomHorizontalFlip(p=config.flip)
        self._jitter = ColorJitter(strength, strength, strength, 0.0, p=1.0) if strength else None
        self._crop_and_flip = AugmentationSequential(
            self._crop, self._flip, data_keys=["input", "mask"]
        )
        self._side = side

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return `batch` with images [B, 3, S, S] float in [0, 1] and label maps [B, S, S] uint8.

        S is `crop_size`. A batch without label maps stays without.
        """
        apply = self._on_cpu if batch.images.device.type == "cpu" else self._on_accelerator
        images, label_maps = apply(batch.images, batch.label_maps)
        if self._jitter is not None:
            images = self._jitter(images)
        return replace(batch, images=images, label_maps=label_maps)

    def _on_accelerator(
        self, images: Tensor, label_maps: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        images = images.float() / 255
        if label_maps is None:
            return self._crop_and_flip(images, data_keys=["input"]), None
        images, masks = self._crop_and_flip(images, label_maps[:, None].float())
        return images, masks[:, 0].to(torch.uint8)

    def _on_cpu(self, images: Tensor, label_maps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply what kornia drew, image by image, in bytes.

        kornia's own way works on several copies of the batch in floats, which fit in no cache.
        """
        crops = self._crop.forward_parameters(images.shape)["src"].int().tolist()
        flips = (self._flip.forward_parameters(images.shape)["batch_prob"] > 0).tolist()
        side = self._side
        # NumPy asks for large pages of memory; the small ones would cost as much as the rest.
        images_B3SS = torch.from_numpy(np.empty((len(images), 3, side, side), np.float32))
        maps_BSS = None if label_maps is None else label_maps.new_empty(len(images), side, side)
        threads = torch.get_num_threads()
        use_one_thread()  # starting others takes longer than one image
        try:
            for i, (crop, is_flipped) in enumerate(zip(crops, flips, strict=True)):
                (left, top), _, (right, bottom), _ = crop
                window = (..., slice(top, bottom + 1), slice(left, right + 1))
                cut = images[i : i + 1][window]
                image = F.interpolate(cut, (side, side), mode="bilinear", antialias=True)
                images_B3SS[i : i + 1] = image.flip(3) if is_flipped else image
                images_B3SS[i].div_(255)
                if label_maps is not None and maps_BSS is not None:
                    cut = label_maps[i : i + 1, None][window]
                    ids = F.interpolate(cut, (side, side), mode="nearest-exact")
                    maps_BSS[i : i + 1] = (ids.flip(3) if is_flipped else ids)[0]
        finally:
            torch.set_num_threads(threads)
        return images_B3SS, maps_BSS
