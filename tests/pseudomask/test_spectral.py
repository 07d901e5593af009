"""Spectral clustering: the eigenvectors are right, and so are the cuts they lead to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from sseg_core.errors import ConfigError
from sseg_core.pseudomask.kmeans import kmeans
from sseg_core.pseudomask.spectral import (
    MAX_TOKENS,
    affinity,
    embed,
    spectral,
    top_eigenvectors,
)


def _blobs(seed: int, B: int = 4, groups: int = 5, size: int = 60, F: int = 16) -> torch.Tensor:
    """Clear groups of tokens, group after group, around centres that differ by image."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(B, groups, 1, F, generator=generator)
    noise = 0.5 * torch.randn(B, groups, size, F, generator=generator)
    return (centres + noise).flatten(1, 2)


def _normalised(affinities: torch.Tensor) -> torch.Tensor:
    root = affinities.sum(2).rsqrt()
    return root[:, :, None] * affinities * root[:, None]


def _chain(length: int) -> torch.Tensor:
    """A path of nodes: its eigenvalues crowd below 1, the hardest case for an iteration."""
    index = torch.arange(length)
    return ((index[:, None] - index).abs() <= 3).float()[None]


def _photos(real_data: Path, count: int) -> torch.Tensor:
    files = sorted((real_data / "voc-mini" / "VOC2012" / "JPEGImages").glob("*.jpg"))[:count]
    grids = [np.asarray(Image.open(path).convert("RGB").resize((28, 28))) for path in files]
    return torch.from_numpy(np.stack(grids)).flatten(1, 2).float() / 255


def test_the_affinity_is_the_gaussian_of_the_mean_distance() -> None:
    """The formula of the docstring, written out over all pairs."""
    tokens = _blobs(0, size=20)
    squares = torch.cdist(tokens.double(), tokens.double()).square()
    expected = torch.exp(-2 * squares / squares.mean((1, 2), keepdim=True)).float()
    torch.testing.assert_close(affinity(tokens), expected, rtol=0, atol=2e-5)


def test_the_affinity_knows_neither_scale_nor_origin() -> None:
    """Tokens a thousand times larger, or all moved, have the same affinities."""
    tokens = _blobs(1, size=20)
    expected = affinity(tokens)
    torch.testing.assert_close(affinity(1000 * tokens), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(affinity(tokens + 50), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("k", [2, 8, 20])
def test_eigenvectors_agree_with_numpy(k: int) -> None:
    """Eigenvalues and the projector on the eigenvectors are those of a dense solver in fp64."""
    generator = torch.Generator().manual_seed(2)
    matrices = _normalised(affinity(torch.randn(3, 400, 6, generator=generator)))
    values, vectors = top_eigenvectors(matrices, k)
    theirs, basis = np.linalg.eigh(matrices.double().numpy())
    np.testing.assert_allclose(values.numpy(), theirs[:, -k:], atol=1e-5)
    projector = (vectors.mT @ vectors).numpy()
    expected = basis[:, :, -k:] @ basis[:, :, -k:].transpose(0, 2, 1)
    gap = theirs[:, -k] - theirs[:, -k - 1]
    # The angle to the true space is at most residual / gap (Davis and Kahan).
    distance = np.linalg.norm(projector - expected, ord=2, axis=(1, 2))
    assert (distance < 1e-4 * np.sqrt(k) / gap).all()
    assert (distance < 0.05).all()


def test_it_iterates_until_the_vectors_are_eigenvectors() -> None:
    """A long chain needs several rounds, and ends with residuals within the promise."""
    matrices = _normalised(_chain(200))
    values, vectors = top_eigenvectors(matrices, 6)
    residuals = (vectors @ matrices - values[:, :, None] * vectors).norm(dim=2)
    assert residuals.max() < 1.1e-4
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(6)[None], rtol=0, atol=1e-5)
    expected = np.linalg.eigvalsh(matrices[0].double().numpy())[-6:]
    np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-5)


def test_clear_groups_come_out_as_with_scikit_learn() -> None:
    """On separate blobs both find the groups, the same ones up to their names."""
    tokens = _blobs(3)
    labels = spectral(tokens, 5, [0, 1, 2, 3], 50)
    assert (labels.dtype, labels.shape) == (torch.uint8, (4, 300))
    for ours, weights in zip(labels, affinity(tokens), strict=True):
        theirs = SpectralClustering(5, affinity="precomputed", random_state=0).fit_predict(weights)
        assert adjusted_rand_score(theirs, ours) == 1
        assert (ours.view(5, 60) == ours.view(5, 60)[:, :1]).all()


def test_a_disconnected_graph_falls_into_its_components() -> None:
    """Three blocks without an edge between them: three points of the embedding."""
    weights = torch.block_diag(*[torch.rand(n, n) * 0.5 + 0.5 for n in (30, 70, 100)])[None]
    rows = embed((weights + weights.mT) / 2, 3)
    truth = torch.repeat_interleave(torch.arange(3), torch.tensor([30, 70, 100]))
    same = (truth[:, None] == truth).float()[None]
    torch.testing.assert_close(rows @ rows.mT, same, rtol=0, atol=1e-3)


def test_more_components_than_clusters_do_no_harm() -> None:
    """Forty groups too far apart for an affinity above 0, at K = 4: no NaN, no group torn."""
    tokens = torch.eye(40).repeat_interleave(10, dim=0)[None] * 1e6
    tokens[:, :, 0] += 1e8 * (torch.arange(400) < 3)
    assert torch.isfinite(embed(affinity(tokens), 4)).all()
    labels = spectral(tokens, 4, [0], 20)[0]
    assert labels.max() < 4
    assert len(labels.unique()) > 1
    assert (labels[10:].view(39, 10) == labels[10:].view(39, 10)[:, :1]).all()


def test_an_image_is_cut_alike_in_any_company() -> None:
    """Alone, in a batch, in another order or beside slow neighbours: the same labels."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.zeros(10, 784, 64)
    tokens[:7, :, :3] = torch.rand(7, 784, 3, generator=generator)
    tokens[7:9] = torch.randn(2, 784, 64, generator=generator)  # takes four times as long
    seeds = list(range(10))
    together = spectral(tokens, 8, seeds, 20)
    for image in range(10):
        alone = spectral(tokens[image : image + 1], 8, seeds[image : image + 1], 20)
        assert torch.equal(alone[0], together[image])
    order = [9, 3, 8, 0, 6]
    assert torch.equal(spectral(tokens[order], 8, order, 20), together[order])


@pytest.mark.parametrize("value", [0.0, 0.3, -7.1])
def test_identical_tokens_share_one_cluster(value: float) -> None:
    """An image of one colour, up to rounding errors: one label."""
    tokens = torch.full((2, 784, 3), value)
    tokens[1, ::7] *= 1 + 1e-7
    labels = spectral(tokens, 8, [0, 1], 20)
    assert (labels == labels[:, :1]).all()


def test_fewer_distinct_tokens_than_clusters_are_told_apart() -> None:
    """Four colours at K = 8 come out as exactly those four segments."""
    colors = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.1, 0.1], [0.2, 0.8, 0.4], [0.9, 0.9, 0.9]])
    truth = torch.arange(4).repeat_interleave(196)
    labels = spectral(colors[truth][None], 8, [0], 20)
    assert len(labels.unique()) == 4
    assert adjusted_rand_score(truth, labels[0]) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_tokens_than_clusters_each_get_their_own(count: int) -> None:
    """N < K: every token is a cluster, the rest of the labels stays unused."""
    tokens = torch.arange(float(count)).view(1, count, 1).expand(2, count, 4)
    labels = spectral(tokens, 8, [0, 1], 20)
    assert all(len(row.unique()) == count for row in labels)
    assert labels.max() < 8


def test_seeds_repeat() -> None:
    """The same seed gives the same labels."""
    tokens = torch.rand(2, 784, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(spectral(tokens, 8, [1, 2], 20), spectral(tokens, 8, [1, 2], 20))


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    """bf16 features give the labels of the same values in fp32."""
    tokens = _blobs(6).bfloat16()
    seeds = [0, 1, 2, 3]
    assert torch.equal(spectral(tokens, 5, seeds, 20), spectral(tokens.float(), 5, seeds, 20))


@pytest.mark.parametrize(("grid", "k"), [(64, 8), (28, 254)])
def test_large_grids_and_many_clusters_work(grid: int, k: int) -> None:
    """4096 tokens fit, and so does the largest K; all labels of a noise image are in use."""
    tokens = torch.rand(1, grid * grid, 3, generator=torch.Generator().manual_seed(7))
    labels = spectral(tokens, k, [0], 5)
    assert labels.shape == (1, grid * grid)
    assert int(labels.max()) < k
    assert len(labels.unique()) > 0.9 * k


def test_too_many_tokens_are_refused() -> None:
    """A grid whose affinities would not fit is one sentence that names the way out."""
    with pytest.raises(ConfigError, match="all pairs") as caught:
        spectral(torch.zeros(1, MAX_TOKENS + 1, 3), 8, [0], 20)
    assert "--set grid=28" in caught.value.hint


def test_real_photos_are_cut_as_by_a_dense_solver(real_data: Path) -> None:
    """At K = 8 a dense solver's eigenvectors span the same space, and give the same segments.

    Segments by and large: a rounding error can send k-means to another optimum, and between two
    seeds of k-means the mean adjusted Rand index is 0.76 on such photos.
    """
    tokens = _photos(real_data, 8)
    seeds = list(range(8))
    rows = embed(affinity(tokens), 8)
    _, basis = np.linalg.eigh(_normalised(affinity(tokens)).double().numpy())
    expected_rows = torch.from_numpy(basis[:, :, -8:])
    expected_rows = expected_rows / expected_rows.norm(dim=2, keepdim=True)
    # The angles between tokens do not depend on the choice of the axes.
    torch.testing.assert_close(
        rows @ rows.mT, (expected_rows @ expected_rows.mT).float(), rtol=0, atol=0.01
    )
    expected = kmeans(expected_rows, 8, seeds, 50).labels
    labels = spectral(tokens, 8, seeds, 50)
    scores = [adjusted_rand_score(a, b) for a, b in zip(expected, labels, strict=True)]
    assert np.mean(scores) > 0.9
