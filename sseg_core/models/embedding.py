"""What all networks share: texts and the features of masks meet in one space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import ModelConfig
from sseg_core.models.image_network import ImageNetwork
from sseg_core.structures import MaskOutput, SegmenterOutput

INITIAL_SCALE = 1 / 0.07  # 1 / sigma of Eq. 2-3, as in CLIP
LARGEST_SCALE = 100.0  # as in CLIP


class Model(ImageNetwork, ABC):
    """Images to masks with features, texts to features in the same space.

    Attributes:
        reads_masks: whether `forward` takes the label maps of the pseudo-masks, after the token
            ids.
        config: sizes of all parts.
    """

    reads_masks: ClassVar[bool]

    text_encoder: nn.Module
    mask_projection: nn.Module
    text_projection: nn.Module
    logit_scale: nn.Parameter

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def _add_common_space(self, text_encoder: nn.Module, mask_width: int) -> None:
        """Make the parts that are the same in every network, behind those of the image half."""
        embed_dim = self.config.embed_dim
        self.text_encoder = text_encoder
        self.mask_projection = _projection(mask_width, embed_dim)
        self.text_projection = _projection(self.config.text.width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels of the input image per cell of the mask grid."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> MaskOutput:
        """Return the masks of each image and a feature for each mask.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], H and W at least 1.
        """

    @abstractmethod
    def image_features(self, masks: MaskOutput) -> Tensor:
        """Return [B, D] unit vectors, one for each image, from the features of its masks."""

    def project_masks(self, mask_features: Tensor) -> Tensor:
        """Return [..., D] unit vectors for [..., D_mask] mask features."""
        return _unit(self.mask_projection(mask_features))

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

    def _with_texts(self, masks: MaskOutput, token_ids: Tensor) -> SegmenterOutput:
        """Return all that the losses need, from what `encode_images` returned."""
        return SegmenterOutput(
            masks=masks,
            image_features=self.image_features(masks),
            text_features=self.encode_texts(token_ids),
            logit_scale=self.similarity_scale(),
        )


def _projection(in_features: int, width: int) -> nn.Sequential:
    # Two layers (S-Seg App. A.1); the hidden width and GELU are our choice, not in the paper.
    return nn.Sequential(nn.Linear(in_features, width), nn.GELU(), nn.Linear(width, width))


def _unit(features: Tensor) -> Tensor:
    # In float32, for under autocast the projections return half precision.
    return F.normalize(features.float(), dim=-1)
