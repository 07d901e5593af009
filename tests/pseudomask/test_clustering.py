"""Clustering by name: what `auto` stands for, and one contract for all algorithms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.pseudomask.clustering import build_clustering, resolve
from sseg_core.pseudomask.kmeans import kmeans

ALGORITHMS = ["kmeans", "cosine", "spectral", "merge"]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are at hand, whatever this machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.parametrize(
    ("features", "natural"),
    [("texture", "merge"), ("groupvit", "argmax"), ("lab", "kmeans"), ("dino_vits8", "kmeans")],
)
def test_auto_is_what_suits_the_features(features: str, natural: str) -> None:
    """texture merges, GroupViT has its groups, everything else takes the paper's k-means."""
    config = resolve(PseudomaskConfig(features=features))
    assert (config.features, config.clustering) == (features, natural)


def test_an_explicit_clustering_stays() -> None:
    """The user's word counts."""
    config = PseudomaskConfig(features="texture", clustering="spectral")
    assert resolve(config).clustering == "spectral"


def test_auto_features_are_those_of_the_weights() -> None:
    """Without weights at hand texture; a weight file alone means the paper's DINO."""
    assert resolve(PseudomaskConfig()).features == "texture"
    assert resolve(PseudomaskConfig(weights="dino.pth")).features == "dino_vits8"


def test_argmax_is_for_groups_only() -> None:
    """The largest of three colour channels is no segment."""
    with pytest.raises(ConfigError, match="lab features are no groups"):
        resolve(PseudomaskConfig(features="lab", clustering="argmax"))


@pytest.mark.parametrize("clustering", ALGORITHMS)
def test_every_algorithm_keeps_the_contract(clustering: str) -> None:
    """Labels of the grid's shape below K; the result of an image is its own."""
    config = PseudomaskConfig(features="lab", clustering=clustering, masks=5)  # type: ignore[arg-type]
    features = torch.randn(4, 9, 11, 6, generator=torch.Generator().manual_seed(0))
    cluster = build_clustering(config)
    labels = cluster(features, [3, 1, 4, 1])
    assert labels.shape == (4, 9, 11)
    assert not labels.is_floating_point()
    assert (labels.min(), labels.max()) == (0, 4)
    assert torch.equal(cluster(features[[2, 0]], [4, 3]), labels[[2, 0]])


@pytest.mark.parametrize("clustering", ALGORITHMS)
def test_plain_images_are_no_error(clustering: str) -> None:
    """Tokens that are all alike, or of two kinds: labels stay in range."""
    config = PseudomaskConfig(features="lab", clustering=clustering)  # type: ignore[arg-type]
    plain = torch.ones(2, 8, 8, 3)
    plain[1, :, 4:] = 0
    labels = build_clustering(config)(plain, [0, 1])
    assert (labels.min(), labels.max()) >= (0, 0)
    assert labels.max() < 8
    left, right = labels[1, :, :4].unique().tolist(), labels[1, :, 4:].unique().tolist()
    assert not set(left) & set(right)


def test_kmeans_is_the_euclidean_one_and_cosine_forgets_lengths() -> None:
    """Scaling each token by itself changes k-means, and nothing for cosine."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 6, 6, 4, generator=generator)
    scaled = features * (0.1 + torch.rand(1, 6, 6, 1, generator=generator))
    for clustering, same in (("kmeans", False), ("cosine", True)):
        config = PseudomaskConfig(features="lab", clustering=clustering, masks=3)  # type: ignore[arg-type]
        cluster = build_clustering(config)
        assert torch.equal(cluster(features, [0]), cluster(scaled, [0])) == same
    config = PseudomaskConfig(features="lab", clustering="kmeans", masks=3)
    expected = kmeans(features.flatten(1, 2), 3, [0], config.iterations).labels
    assert torch.equal(build_clustering(config)(features, [0]).flatten(1), expected)


def test_argmax_takes_the_group_of_the_largest_share() -> None:
    """The memberships of GroupViT become labels as they are."""
    shares = torch.rand(2, 3, 3, 8, generator=torch.Generator().manual_seed(2))
    labels = build_clustering(resolve(PseudomaskConfig(features="groupvit")))(shares, [0, 0])
    assert torch.equal(labels, shares.argmax(3))
