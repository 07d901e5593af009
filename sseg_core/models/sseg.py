"""The whole network: images to masks with features, texts to features in the same space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import ModelConfig
from sseg_core.models.backbone import Backbone
from sseg_core.models.mask_decoder import MaskDecoder, pool_features
from sseg_core.models.pixel_decoder import PixelDecoder
from sseg_core.structures import MaskOutput, SegmenterOutput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INITIAL_SCALE = 1 / 0.07  # 1 / sigma of Eq. 2-3, as in CLIP
LARGEST_SCALE = 100.0  # as in CLIP


class SSeg(nn.Module):
    """MaskFormer without a classifier beside a text encoder (S-Seg Sec. 3.2-3.3).

    Args:
        config: sizes of all parts.
        text_encoder: maps token ids [B, L] to features [B, config.text.width].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, text_encoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.hidden_dim
        self.backbone = Backbone(config.backbone)
        # The decoder of masks comes first: it checks the width for both.
        self.mask_decoder = MaskDecoder(config.decoder, self.backbone.channels[-1])
        self.pixel_decoder = PixelDecoder(self.backbone.channels, width)
        self.text_encoder = text_encoder
        self.mask_projection = _projection(width, config.embed_dim)
        self.text_projection = _projection(config.text.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        # Constants travel with the model but not with its weights.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

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
        masks = self.encode_images(images)
        return SegmenterOutput(
            masks=masks,
            image_features=self.image_features(masks),
            text_features=self.encode_texts(token_ids),
            logit_scale=self.similarity_scale(),
        )

    def encode_images(self, images: Tensor) -> MaskOutput:
        """Return the masks of each image and a feature for each mask.

        Images of any size are padded with the mean colour, right and below, to whole cells of
        the coarsest level. Each cell that the queries look at thus shows some of the image. Cells
        of the mask grid that hold only padding are cut off, and count nothing in pooled features.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], H and W at least 1.
        """
        height, width = images.shape[-2:]
        coarsest = self.backbone.strides[-1]
        normalised = (images - self.mean) / self.std
        padded = F.pad(normalised, (0, -width % coarsest, 0, -height % coarsest))
        # Convolutions keep this memory format down to the masks; a training step of the recipe
        # `tiny` on a CPU gets a sixth shorter by it, and nothing else depends on it.
        levels = self.backbone(padded.contiguous(memory_format=torch.channels_last))
        pixel_embedding, features = self.pixel_decoder(levels)
        mask_features, all_logits = self.mask_decoder(levels[-1], pixel_embedding)

        rows, columns = -(-height // self.stride), -(-width // self.stride)  # rounded up
        *auxiliary, mask_logits = (logits[..., :rows, :columns] for logits in all_logits)
        if self.config.decoder.mask_feature == "pooled":
            mask_features = pool_features(mask_logits, features[..., :rows, :columns])
        return MaskOutput(
            mask_logits=mask_logits,
            mask_features=mask_features,
            auxiliary_mask_logits=tuple(auxiliary),
            stride=self.stride,
        )

    def project_masks(self, mask_features: Tensor) -> Tensor:
        """Return [B, Q, D] unit vectors for [B, Q, D_mask] mask features."""
        return _unit(self.mask_projection(mask_features))

    def image_features(self, masks: MaskOutput) -> Tensor:
        """Return [B, D] unit vectors: the mean mask feature, projected (S-Seg Sec. 3.3.2)."""
        return _unit(self.mask_projection(masks.mask_features.mean(dim=1)))

    def encode_texts(self, token_ids: Tensor) -> Tensor:
        """Return [C, D] unit vectors for [C, L] token ids."""
        return _unit(self.text_projection(self.text_encoder(token_ids)))

    def similarity_scale(self) -> Tensor:
        """Return the scalar 1 / sigma that similarities are multiplied with, at most 100.

        The parameter itself is held at the limit, as in CLIP: a clamp of the returned value
        would have no gradient beyond it, and the scale could never come down again.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.logit_scale.exp()


def _projection(in_features: int, width: int) -> nn.Sequential:
    # Two layers (S-Seg App. A.1); the hidden width and GELU are our choice, not in the paper.
    return nn.Sequential(nn.Linear(in_features, width), nn.GELU(), nn.Linear(width, width))


def _unit(features: Tensor) -> Tensor:
    # In float32, for under autocast the projections return half precision.
    return F.normalize(features.float(), dim=-1)
