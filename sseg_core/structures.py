"""The typed values that pass between the parts of the library.

Shape legend, used in every docstring and in tensor names (`mask_logits_BQHW`):

    B  images in a batch        Q  mask queries (N in the paper)
    C  classes or texts         D  embedding width
    H  height in pixels         W  width in pixels
    h  height of the mask grid  w  width of the mask grid
    K  pseudo-masks in an image L  tokens of a text
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # an exported model runs without torch
    import torch
    from torch import Tensor

IGNORE_LABEL = 255
"""Label-map value of a pixel that belongs to no segment or class (VOC's void)."""

BACKGROUND = -1
"""Label of a pixel that shows none of the classes, beside class indices from 0."""

VOID = -2
"""Label of a pixel that does not count: nobody knows its class, or it has none."""

MAX_PIXELS = 300_000_000
"""Images with more pixels are refused unless an option says otherwise: a decompression bomb."""

LabelMap = npt.NDArray[np.int16]
"""[H, W] class index, `BACKGROUND` or `VOID`."""


@dataclass(frozen=True)
class Batch:
    """One training batch, as `data/loader.py` yields it.

    Attributes:
        images: [B, 3, H, W] uint8 from the loader; float RGB in [0, 1] after augmentation.
        label_maps: [B, H, W] uint8 segment ids, `IGNORE_LABEL` where there is none; None until
            masks are made online.
        token_ids: [B, L] int64, padded with 0; L is no longer than the longest text needs.
        keys: the B sample keys, to name a sample in an error.
        skipped: samples passed over since the last batch, by reason.
    """

    images: Tensor
    label_maps: Tensor | None
    token_ids: Tensor
    keys: tuple[str, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """Return the same batch with its tensors on `device`."""
        maps = self.label_maps
        return Batch(
            images=self.images.to(device, non_blocking=True),
            label_maps=None if maps is None else maps.to(device, non_blocking=True),
            token_ids=self.token_ids.to(device, non_blocking=True),
            keys=self.keys,
            skipped=self.skipped,
        )

    def pinned(self) -> Batch:
        """Return the same batch with its tensors where a GPU copies from them directly."""
        maps = self.label_maps
        return replace(
            self,
            images=self.images.pin_memory(),
            label_maps=None if maps is None else maps.pin_memory(),
            token_ids=self.token_ids.pin_memory(),
        )


@dataclass(frozen=True)
class LabelledBatch:
    """One batch for a student in self-training, as `data/labelled_loader.py` yields it.

    Attributes:
        images: [B, 3, H, W] uint8 from the loader; float RGB in [0, 1] after augmentation.
        label_maps: [B, H, W] int16 class index, `BACKGROUND` or `VOID`.
        keys: the B image keys, to name an image in an error.
        skipped: images passed over since the last batch, by reason.
    """

    images: Tensor
    label_maps: Tensor
    keys: tuple[str, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def to(self, device: torch.device) -> LabelledBatch:
        """Return the same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            label_maps=self.label_maps.to(device, non_blocking=True),
        )

    def pinned(self) -> LabelledBatch:
        """Return the same batch with its tensors where a GPU copies from them directly."""
        return replace(
            self, images=self.images.pin_memory(), label_maps=self.label_maps.pin_memory()
        )


@dataclass(frozen=True)
class ClassLogits:
    """What a student's network returns.

    Attributes:
        logits: [B, C, h, w] of the classes, h = ceil(H / stride), w = ceil(W / stride), but in
            training of the padded image; background, where it is told apart, is the last channel.
        auxiliary: [B, C, h', w'] of the auxiliary head, on a coarser grid over the same padded
            image; None without one, and outside training.
        stride: pixels of the input image per cell of `logits`.
    """

    logits: Tensor
    auxiliary: Tensor | None
    stride: int


@dataclass(frozen=True)
class MaskTargets:
    """The pseudo-masks of a batch, one slot per segment id, so that no shape depends on data.

    Attributes:
        masks: [B, K, h, w] float in {0, 1}; slot k is segment k, all 0 where it is absent.
        valid: [B, h, w] float in {0, 1}; 0 where the label map holds `IGNORE_LABEL`.
        present: [B, K] bool, whether the segment covers any cell; an image may have none.
    """

    masks: Tensor
    valid: Tensor
    present: Tensor


@dataclass(frozen=True)
class MaskOutput:
    """What the image half of the network returns.

    Attributes:
        mask_logits: [B, Q, h, w], h = ceil(H / stride), w = ceil(W / stride).
        mask_features: [B, Q, D_mask], not projected, not normalised.
        auxiliary_mask_logits: the same as `mask_logits` from each earlier decoder layer.
        stride: pixels of the input image per cell of the mask grid.
    """

    mask_logits: Tensor
    mask_features: Tensor
    auxiliary_mask_logits: tuple[Tensor, ...]
    stride: int


@dataclass(frozen=True)
class SegmenterOutput:
    """What the whole network returns in training: images, texts and the temperature.

    Attributes:
        masks: the mask half, see `MaskOutput`.
        image_features: [B, D], L2-normalised projection of the mean mask feature.
        text_features: [B, D], L2-normalised.
        logit_scale: scalar, 1 / sigma of Eq. 2-3, already exponentiated and clamped.
    """

    masks: MaskOutput
    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor


@dataclass(frozen=True)
class MaskLosses:
    """The mask losses of a batch, each a scalar tensor.

    Attributes:
        total: weighted sum over all decoder layers, lambda_mask included (Eq. 1 and 4).
        dice: dice loss of the last decoder layer, mean over the masks of the batch.
        focal: focal loss of the last decoder layer, likewise.
    """

    total: Tensor
    dice: Tensor
    focal: Tensor


@dataclass(frozen=True)
class LossTerms:
    """The terms of the loss, each a scalar tensor, unweighted but for `total` (Eq. 4).

    Attributes:
        total: what is minimised; the mask losses of all decoder layers are in it.
        contrastive: L_{I->T} + L_{T->I} (Eq. 2-3).
        dice: dice loss of the last decoder layer, mean over the masks of the batch.
        focal: focal loss of the last decoder layer, likewise.
    """

    total: Tensor
    contrastive: Tensor
    dice: Tensor
    focal: Tensor

    def detached(self) -> dict[str, Tensor]:
        """Return the terms by name without their graph, for logging."""
        return {
            "loss": self.total.detach(),
            "contrastive": self.contrastive.detach(),
            "dice": self.dice.detach(),
            "focal": self.focal.detach(),
        }
