"""Images in, class-agnostic label maps out (S-Seg Sec. 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.pseudomask.features import build_features
from sseg_core.pseudomask.kmeans import key_seed, kmeans


class PseudoMaskGenerator:
    """Clusters the feature grid of each image into K segments.

    The result for an image depends on its pixels, its key and the configuration, and on nothing
    else in the batch.
    """

    def __init__(self, config: PseudomaskConfig, device: torch.device) -> None:
        self._config = config
        self._features = build_features(
            config.features,
            grid=config.grid,
            weights=None if config.weights is None else Path(config.weights),
            device=device,
        )

    def __call__(self, images: Tensor, keys: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Return [B, gh, gw] label maps on the token grid.

        Segments are numbered from 0 in the order in which they first appear, row by row.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1], on the device of the generator.
            keys: the B sample keys; they seed the clustering.
        """
        features = self._features(images)
        B, gh, gw, _ = features.shape
        seeds = [key_seed(key, self._config.seed) for key in keys]
        result = kmeans(features.flatten(1, 2), self._config.masks, seeds, self._config.iterations)
        label_maps = _by_first_appearance(result.labels.long(), self._config.masks)
        maps: npt.NDArray[np.uint8] = label_maps.to(torch.uint8).view(B, gh, gw).cpu().numpy()
        return maps


def _by_first_appearance(labels_BN: Tensor, k: int) -> Tensor:
    """Renumber the labels of each row by where they first appear in it."""
    B, N = labels_BN.shape
    positions = torch.arange(N, device=labels_BN.device).expand(B, N)
    first_BK = positions.new_full((B, k), N).scatter_reduce(1, labels_BN, positions, "amin")
    return first_BK.argsort(1).argsort(1).gather(1, labels_BN)
