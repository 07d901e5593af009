"""Baseline 2 of the paper: a ViT whose tokens are pooled in each segment of the pseudo-mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import ModelConfig
from sseg_core.errors import ConfigError
from sseg_core.models.backbone import Backbone
from sseg_core.models.embedding import Model
from sseg_core.structures import IGNORE_LABEL, MaskOutput, SegmenterOutput

CELLS_PER_PATCH = 4
"""Side of a patch in cells of the mask grid (our choice, not in the paper): the outline of a
segment is finer than a patch of 16 pixels. Where a patch does not divide so, as those of 14
pixels, it has fewer."""

CERTAIN = 20.0
"""Mask logit of a cell in its segment, and -CERTAIN outside: 1 and 0 to 8 digits."""


class PseudoMaskViT(Model):
    """A CLIP-like model that learns no masks (S-Seg Sec. 4.1, baseline 2).

    The masks are the segments of the pseudo-mask, at most `config.decoder.num_queries` of them;
    nothing else of `config.decoder` counts. Any backbone will do whose last level is one feature
    per patch; the paper's is a ViT.

    Args:
        config: sizes of all parts.
        text_encoder: maps token ids [B, L] to features [B, config.text.width].

    Raises:
        ConfigError: more segments than a label map can tell apart; else as `Backbone`.

    Attributes:
        segmenter: makes [B, h, w] label maps of any size from [B, 3, H, W] float RGB images in
            [0, 1], for images that come without; what loads a checkpoint sets it.
    """

    reads_masks = True
    segmenter: Callable[[Tensor], Tensor] | None

    def __init__(self, config: ModelConfig, text_encoder: nn.Module) -> None:
        super().__init__(config)
        if config.decoder.num_queries > IGNORE_LABEL:
            raise ConfigError(
                f"A label map tells at most {IGNORE_LABEL} segments apart, not "
                f"{config.decoder.num_queries}.",
                "Set model.decoder.num_queries to the number of pseudo-masks.",
            )
        self.backbone = Backbone(config.backbone)
        width = self.backbone.channels[-1]
        self.norm = nn.LayerNorm(width, eps=1e-6)  # of the last tokens, as in a plain ViT
        self.segmenter = None
        self._add_common_space(text_encoder, width)

    @property
    def stride(self) -> int:
        """Pixels of the input image per cell of the mask grid."""
        patch = self.backbone.strides[-1]
        return patch // math.gcd(patch, CELLS_PER_PATCH)

    def forward(self, images: Tensor, token_ids: Tensor, label_maps: Tensor) -> SegmenterOutput:
        """Return all that the losses need.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1].
            token_ids: [B, L] int64, the caption of each image.
            label_maps: as in `encode_images`.
        """
        return self._with_texts(self.encode_images(images, label_maps), token_ids)

    def encode_images(self, images: Tensor, label_maps: Tensor | None = None) -> MaskOutput:
        """Return the segments of each image as masks, and the mean token of each segment.

        A patch counts in a segment with the share of its cells that lie in it: patches are
        coarse, and a thin segment that has the most of no patch would else have no token. The
        mask of a segment that is not in the image is empty; its feature is the mean of all
        tokens, which is also what an image without any segment is pooled to.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], H and W at least 1, padded to whole patches
                with the mean colour.
            label_maps: [B, h, w] uint8 segment ids on any grid that covers the image, from 0 to
                `config.decoder.num_queries` - 1; other values, as `IGNORE_LABEL`, are in no
                segment. Default: what `segmenter` makes.

        Raises:
            ConfigError: there are neither label maps nor a segmenter.
        """
        if label_maps is None:
            label_maps = self._segment(images)
        patch = self.backbone.strides[-1]
        tokens_BDhw = self.backbone(self._normalised(images, patch))[-1]
        tokens_BND = self.norm(tokens_BDhw.flatten(2).transpose(1, 2))

        height, width = images.shape[-2:]
        rows = _nearest(height, self.stride, label_maps.shape[1], images.device)
        columns = _nearest(width, self.stride, label_maps.shape[2], images.device)
        cells_Bhw = label_maps[:, rows[:, None], columns]
        ids_K = torch.arange(
            self.config.decoder.num_queries, device=cells_Bhw.device, dtype=cells_Bhw.dtype
        )
        masks_BKhw = cells_Bhw[:, None] == ids_K[:, None, None]
        return MaskOutput(
            mask_logits=CERTAIN * (2 * masks_BKhw.float() - 1),
            mask_features=pool_tokens(tokens_BND, masks_BKhw, patch // self.stride),
            auxiliary_mask_logits=(),
            stride=self.stride,
        )

    def image_features(self, masks: MaskOutput) -> Tensor:
        """Return [B, D] unit vectors: the mean feature of the segments there are, projected."""
        present_BK = (masks.mask_logits > 0).flatten(2).any(dim=2)
        # Without any segment all features are the same, so all may count.
        counted_BK1 = (present_BK | ~present_BK.any(dim=1, keepdim=True)).unsqueeze(2)
        sums_BD = (masks.mask_features * counted_BK1).sum(dim=1)
        return self.project_masks(sums_BD / counted_BK1.sum(dim=1))

    def _segment(self, images: Tensor) -> Tensor:
        if self.segmenter is None:
            raise ConfigError(
                "This network pools its features in pseudo-masks, and nothing here makes them.",
                "Load it with Segmenter.load, or give label maps.",
            )
        return self.segmenter(images)


def pool_tokens(tokens_BND: Tensor, masks_BKhw: Tensor, cells: int) -> Tensor:
    """Return [B, K, D] float32, the mean of the tokens in each mask, even under autocast.

    Args:
        tokens_BND: [B, N, D], one of each patch, row by row.
        masks_BKhw: [B, K, h, w] bool; an empty mask stands for the whole image.
        cells: side of a patch in cells; where the last patches of a row or a column stick out,
            the cells beyond h and w are in no mask.
    """
    height, width = masks_BKhw.shape[-2:]
    whole = masks_BKhw | ~masks_BKhw.flatten(2).any(dim=2)[:, :, None, None]
    with torch.autocast(tokens_BND.device.type, enabled=False):
        padded = F.pad(whole.float(), (0, -width % cells, 0, -height % cells))
        shares_BKN = F.avg_pool2d(padded, cells).flatten(2)
        weights_BKN = shares_BKN / shares_BKN.sum(dim=2, keepdim=True)
        return torch.bmm(weights_BKN, tokens_BND.float())


def _nearest(size: int, stride: int, map_size: int, device: torch.device) -> Tensor:
    """Return the row of a label map that holds the centre of each cell of the mask grid.

    The map, of `map_size` rows, is stretched over `size` pixels of the image; the centre of the
    last cell may lie beyond them.
    """
    cells = -(-size // stride)  # rounded up
    centres = (2 * torch.arange(cells, device=device) + 1) * stride  # in half pixels
    return (centres * map_size // (2 * size)).clamp(max=map_size - 1)
