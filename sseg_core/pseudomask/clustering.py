"""How the tokens of an image become segments: one interface, several algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.pseudomask.features import DEFAULT, resolve_features
from sseg_core.pseudomask.groupvit import REPOSITORIES
from sseg_core.pseudomask.kmeans import kmeans
from sseg_core.pseudomask.merge import merge
from sseg_core.pseudomask.spectral import spectral


class Clustering(Protocol):
    """Groups the tokens of each image, whatever else is in the batch."""

    def __call__(self, features: Tensor, seeds: Sequence[int], /) -> Tensor:
        """Return [B, gh, gw] integer labels from 0 to K - 1 of [B, gh, gw, F] float features.

        `seeds` holds one number per image, for algorithms that draw.
        """


def resolve(config: PseudomaskConfig) -> PseudomaskConfig:
    """Return `config` with its features and its clustering named, where they were `auto`.

    Features of a GroupViT are groups already, `texture` is made to be merged, and everything else
    is clustered by k-means as in the paper.

    Raises:
        ConfigError: unknown features, or a clustering that they cannot take.
    """
    # Weights that are given are those of the paper's features, unless others are named.
    given = config.features == "auto" and config.weights is not None
    features = DEFAULT if given else resolve_features(config.features)
    natural = (
        "argmax" if features in REPOSITORIES else "merge" if features == "texture" else "kmeans"
    )
    clustering = natural if config.clustering == "auto" else config.clustering
    if clustering == "argmax" and natural != "argmax":
        raise ConfigError(
            f"{features} features are no groups, so there is no largest one.",
            "Leave clustering out, or use --features groupvit.",
        )
    return config.model_copy(update={"features": features, "clustering": clustering})


def build_clustering(config: PseudomaskConfig) -> Clustering:
    """Return the clustering that `config` names, which must be resolved."""
    k, iterations = config.masks, config.iterations

    def by_argmax(features: Tensor, _: Sequence[int]) -> Tensor:
        return features.argmax(3)

    def by_euclidean(features: Tensor, seeds: Sequence[int]) -> Tensor:
        return kmeans(features.flatten(1, 2), k, seeds, iterations).labels.view(features.shape[:3])

    def by_cosine(features: Tensor, seeds: Sequence[int]) -> Tensor:
        tokens = features.flatten(1, 2)
        labels = kmeans(tokens, k, seeds, iterations, metric="cosine").labels
        return labels.view(features.shape[:3])

    def by_cuts(features: Tensor, seeds: Sequence[int]) -> Tensor:
        tokens = features.flatten(1, 2)
        return spectral(tokens, k, seeds, iterations).view(features.shape[:3])

    def by_merging(features: Tensor, _: Sequence[int]) -> Tensor:
        return merge(features, k)

    choices: dict[str, Clustering] = {
        "argmax": by_argmax,
        "kmeans": by_euclidean,
        "cosine": by_cosine,
        "spectral": by_cuts,
        "merge": by_merging,
    }
    return choices[config.clustering]
