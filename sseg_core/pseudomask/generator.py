"""Images in, class-agnostic label maps out (S-Seg Sec. 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.pseudomask.clustering import build_clustering, resolve
from sseg_core.pseudomask.features import build_features
from sseg_core.pseudomask.kmeans import key_seed
from sseg_core.structures import IGNORE_LABEL


class PseudoMaskGenerator:
    """Clusters the feature grid of each image into at most K segments.

    The result for an image depends on its pixels, its key and the configuration, and on nothing
    else in the batch.
    """

    def __init__(self, config: PseudomaskConfig, device: torch.device) -> None:
        config = resolve(config)
        self._seed = config.seed
        self._size = (config.image_size, config.image_size)
        self._features = build_features(config, device)
        self._cluster = build_clustering(config)

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Return [B, gh, gw] uint8 label maps on the token grid, on the device of the images.

        Segments are numbered from 0 in the order in which they first appear, row by row. A map is
        255 everywhere where the features of its image are not finite numbers.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], on the device of the generator; resized to
                squares of `image_size` where they are not.
            keys: the B sample keys; they seed the clustering.
        """
        if images.shape[-2:] != self._size:
            images = F.interpolate(images, self._size, mode="bilinear", antialias=True)
        features = self._features(images)
        finite_B111 = features.isfinite().all((1, 2, 3), keepdim=True)
        features = features.where(finite_B111, 0)
        labels = self._cluster(features, [key_seed(key, self._seed) for key in keys])
        maps = _by_first_appearance(labels.flatten(1).long()).view(labels.shape)
        return maps.where(finite_B111[..., 0], IGNORE_LABEL).to(torch.uint8)


def _by_first_appearance(labels_BN: Tensor) -> Tensor:
    """Renumber the labels of each row, all below 255, by where they first appear in it."""
    B, N = labels_BN.shape
    positions = torch.arange(N, device=labels_BN.device).expand(B, N)
    first_BK = positions.new_full((B, IGNORE_LABEL), N)
    first_BK = first_BK.scatter_reduce(1, labels_BN, positions, "amin")
    return first_BK.argsort(1).argsort(1).gather(1, labels_BN)
