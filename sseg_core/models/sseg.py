"""The whole network: images to masks with features, texts to features in the same space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sseg_core.config import ModelConfig
from sseg_core.models.backbone import Backbone
from sseg_core.models.embedding import Model
from sseg_core.models.image_network import covering
from sseg_core.models.linear import use_pointwise
from sseg_core.models.mask_decoder import MaskDecoder, pool_features
from sseg_core.models.pixel_decoder import PixelDecoder
from sseg_core.structures import MaskOutput, SegmenterOutput


class SSeg(Model):
    """MaskFormer without a classifier beside a text encoder (S-Seg Sec. 3.2-3.3).

    Args:
        config: sizes of all parts.
        text_encoder: maps token ids [B, L] to features [B, config.text.width].
    """

    reads_masks = False

    def __init__(self, config: ModelConfig, text_encoder: nn.Module) -> None:
        super().__init__(config)
        width = config.decoder.hidden_dim
        self.backbone = Backbone(config.backbone)
        # The decoder of masks comes first: it checks the width for both.
        self.mask_decoder = MaskDecoder(config.decoder, self.backbone.channels[-1])
        self.pixel_decoder = PixelDecoder(self.backbone.channels, width)
        self._add_common_space(text_encoder, width)
        use_pointwise(self)

    @property
    def stride(self) -> int:
        """Pixels of the input image per cell of the mask grid."""
        return self.backbone.strides[0]

    def forward(self, images: Tensor, token_ids: Tensor) -> SegmenterOutput:
        """Return all that the losses need.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1].
            token_ids: [B, L] int64, the caption of each image.
        """
        return self._with_texts(self.encode_images(images), token_ids)

    def encode_images(self, images: Tensor) -> MaskOutput:
        """Return the masks of each image and a feature for each mask.

        Images of any size are padded with the mean colour, right and below, to whole cells of
        the coarsest level. Each cell that the queries look at thus shows some of the image. Cells
        of the mask grid that hold only padding are cut off, and count nothing in pooled features.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], H and W at least 1.
        """
        height, width = images.shape[-2:]
        padded = self._normalised(images, self.backbone.strides[-1])
        # Convolutions keep this memory format down to the masks; a training step of the recipe
        # `tiny` on a CPU gets a sixth shorter by it, and nothing else depends on it.
        levels = self.backbone(padded.contiguous(memory_format=torch.channels_last))
        pixel_embedding, features = self.pixel_decoder(levels)
        mask_features, all_logits = self.mask_decoder(levels[-1], pixel_embedding)

        rows, columns = covering(height, self.stride), covering(width, self.stride)
        *auxiliary, mask_logits = (logits[..., :rows, :columns] for logits in all_logits)
        if self.config.decoder.mask_feature == "pooled":
            mask_features = pool_features(mask_logits, features[..., :rows, :columns])
        return MaskOutput(
            mask_logits=mask_logits,
            mask_features=mask_features,
            auxiliary_mask_logits=tuple(auxiliary),
            stride=self.stride,
        )

    def image_features(self, masks: MaskOutput) -> Tensor:
        """Return [B, D] unit vectors: the mean mask feature, projected (S-Seg Sec. 3.3.2)."""
        return self.project_masks(masks.mask_features.mean(dim=1))
