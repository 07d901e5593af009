"""K-means: as good as scikit-learn, deterministic per sample, never stuck on empty clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from sseg_core.pseudomask.kmeans import key_seed, kmeans


def _tokens(seed: int, B: int = 6, N: int = 196, features: int = 32) -> torch.Tensor:
    """Overlapping blobs far from the origin, like the tokens of a ViT."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn(B, 12, features, generator=generator)
    blob_of_token = torch.randint(0, 12, (B, N, 1), generator=generator).expand(B, N, features)
    return 20 + blobs.gather(1, blob_of_token) + torch.randn(B, N, features, generator=generator)


def _inertia_of_scikit_learn(tokens: torch.Tensor, k: int) -> float:
    fitted = [
        KMeans(k, n_init=1, max_iter=20, random_state=i).fit(image.numpy())
        for i, image in enumerate(tokens)
    ]
    return float(np.mean([model.inertia_ for model in fitted]))


@pytest.mark.parametrize(("N", "k"), [(196, 8), (784, 4), (784, 8), (784, 16)])
def test_the_inertia_is_within_a_few_percent_of_scikit_learn(N: int, k: int) -> None:
    """Over many images the mean inertia is at most 1.5% above scikit-learn's single start."""
    tokens = _tokens(0, B=24, N=N)
    ours = kmeans(tokens, k, list(range(24)), 20).inertia.mean().item()
    assert ours < 1.015 * _inertia_of_scikit_learn(tokens, k)


def test_cosine_is_as_good_as_scikit_learn_on_directions() -> None:
    """Spherical k-means groups directions as well as Euclidean k-means of normalised tokens.

    With its centres inside the sphere, the Euclidean inertia is the lower one of the two; the
    sum of squares from normalised centres puts both on the same scale.
    """
    tokens = _tokens(7, B=24, N=400) - 19
    result = kmeans(tokens, 8, list(range(24)), 20, metric="cosine")
    directions = F.normalize(tokens, dim=2)
    theirs = []
    for i, image in enumerate(directions):
        fitted = KMeans(8, n_init=1, max_iter=50, random_state=i).fit(image.numpy())
        centres = F.normalize(torch.from_numpy(fitted.cluster_centers_), dim=1)
        theirs.append(torch.cdist(image, centres).amin(1).square().sum().item())
    assert result.inertia.mean().item() < 1.015 * np.mean(theirs)


def test_cosine_ends_at_a_fixed_point_of_spherical_lloyd() -> None:
    """Each centre is the mean direction of its tokens, each label the most similar centre."""
    tokens = _tokens(8, B=2) - 19
    result = kmeans(tokens, 4, [0, 1], 400, metric="cosine")
    directions = F.normalize(tokens, dim=2)
    for image in range(2):
        similarities = directions[image] @ result.centres[image].T
        assert torch.equal(result.labels[image].long(), similarities.argmax(1))
        expected = (2 - 2 * similarities.amax(1)).sum()
        torch.testing.assert_close(result.inertia[image], expected, rtol=1e-4, atol=0)
        for cluster in range(4):
            members = directions[image, result.labels[image] == cluster]
            mean = F.normalize(members.mean(0), dim=0)
            torch.testing.assert_close(result.centres[image, cluster], mean)


def test_cosine_looks_at_directions_only() -> None:
    """A token of another length has the same label; Euclidean k-means sees the difference."""
    tokens = _tokens(9, B=1, N=300) - 19
    generator = torch.Generator().manual_seed(0)
    # Powers of two, so that the directions have the same bits.
    lengths = 2.0 ** torch.randint(-3, 4, (1, 300, 1), generator=generator)
    for metric, is_equal in (("cosine", True), ("euclidean", False)):
        labels = [kmeans(t, 8, [3], 20, metric).labels for t in (tokens, tokens * lengths)]
        assert torch.equal(*labels) == is_equal


def test_cosine_puts_up_with_tokens_of_zeros() -> None:
    """A token without a direction spoils neither the numbers nor the groups of the others."""
    truth = torch.arange(3).repeat_interleave(40)
    generator = torch.Generator().manual_seed(0)
    tokens = 9 * torch.eye(3)[truth] + 0.1 * torch.randn(120, 3, generator=generator)
    tokens[::10] = 0
    for image in (tokens, torch.zeros(120, 3)):
        result = kmeans(image[None], 4, [1], 20, metric="cosine")
        assert torch.isfinite(result.centres).all()
        assert torch.isfinite(result.inertia).all()
    labels = kmeans(tokens[None], 4, [1], 20, metric="cosine").labels[0]
    groups = [labels[(truth == group) & (tokens != 0).any(1)].unique() for group in range(3)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert len(torch.cat(groups).unique()) == 3


def test_the_result_is_consistent_in_itself() -> None:
    """Each token has its nearest centre, and the inertia is the sum of those distances."""
    tokens = _tokens(1)
    result = kmeans(tokens, 5, list(range(6)), 50)
    distances = torch.cdist(tokens.double(), result.centres.double())
    assert torch.equal(result.labels.long(), distances.argmin(2))
    # fp32 sums against fp64 ones
    expected = distances.amin(2).square().sum(1).float()
    torch.testing.assert_close(result.inertia, expected, rtol=1e-4, atol=0)
    assert (result.labels.dtype, result.labels.shape) == (torch.uint8, (6, 196))


def test_it_ends_at_a_fixed_point_of_lloyd() -> None:
    """With iterations to spare, each centre is the mean of its tokens."""
    tokens = _tokens(2, B=2)
    result = kmeans(tokens, 4, [0, 1], 400)
    for image in range(2):
        for cluster in range(4):
            members = tokens[image, result.labels[image] == cluster]
            torch.testing.assert_close(result.centres[image, cluster], members.mean(0))


def test_separate_blobs_are_found() -> None:
    """Three tight groups of tokens come out as the three clusters."""
    generator = torch.Generator().manual_seed(3)
    truth = torch.arange(3).repeat_interleave(50)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    tokens = centres[truth] + 0.1 * torch.randn(150, 2, generator=generator)
    labels = kmeans(tokens[None], 3, [5], 20).labels[0].view(3, 50)
    assert (labels == labels[:, :1]).all()
    assert len(labels[:, 0].unique()) == 3


@pytest.mark.parametrize(("N", "features"), [(196, 32), (784, 384)])
def test_an_image_is_clustered_alike_in_any_company(N: int, features: int) -> None:
    """Alone, in a batch, in another order or beside broken neighbours: the same bits."""
    tokens = _tokens(4, B=7, N=N, features=features)
    seeds = list(range(7))
    together = kmeans(tokens, 8, seeds, 20)
    for image in range(7):
        alone = kmeans(tokens[image : image + 1], 8, seeds[image : image + 1], 20)
        assert torch.equal(alone.labels[0], together.labels[image])
        assert torch.equal(alone.centres[0], together.centres[image])
    order = [3, 0, 6]
    others = torch.cat([tokens[order], torch.zeros(2, N, features)])
    shuffled = kmeans(others, 8, [*order, 0, 0], 20)
    assert torch.equal(shuffled.labels[:3], together.labels[order])


def test_seeds_decide_and_repeat() -> None:
    """The same seed gives the same clustering, another one another start."""
    tokens = _tokens(5, B=1)
    first, again, other = (kmeans(tokens, 8, [seed], 3) for seed in (1, 1, 2))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_identical_tokens_share_one_cluster() -> None:
    """An image of one colour: one label, no NaN, no inertia."""
    result = kmeans(torch.full((2, 64, 3), 0.3), 8, [0, 1], 20)
    assert (result.labels == result.labels[:, :1]).all()
    assert torch.isfinite(result.centres).all()
    assert result.inertia.abs().max() < 1e-9


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_tokens_than_clusters_each_get_their_own(count: int) -> None:
    """N < K: every token is a cluster, the rest of the labels stays unused."""
    tokens = torch.arange(float(count)).view(1, count, 1).expand(2, count, 4)
    result = kmeans(tokens, 8, [0, 1], 20)
    assert torch.isfinite(result.centres).all()
    assert all(len(labels.unique()) == count for labels in result.labels)
    assert result.inertia.max() < 1e-9


def test_fewer_distinct_tokens_than_clusters_are_told_apart() -> None:
    """Four colours at K = 8 come out as exactly those four segments."""
    truth = torch.arange(4).repeat_interleave(20)
    tokens = (truth.float() * 5).view(1, 80, 1).expand(1, 80, 3)
    result = kmeans(tokens, 8, [0], 20)
    assert len(result.labels.unique()) == 4
    assert result.inertia.item() < 1e-7 * tokens.square().sum().item()  # rounding of fp32


def test_a_token_that_is_not_in_the_sample_gets_its_own_cluster() -> None:
    """The sample shows two colours; the clusters left over find the third, one token large."""
    tokens = torch.arange(2.0).repeat_interleave(400).view(1, 800, 1).repeat(1, 1, 3)
    tokens[0, 1] = 7  # the sample is every third token, from token 0
    result = kmeans(tokens, 8, [0], 20)
    assert (result.labels[0] == result.labels[0, 1]).sum() == 1
    assert len(result.labels.unique()) == 3


def test_a_cluster_that_runs_empty_starts_anew_at_the_farthest_token() -> None:
    """Lloyd's empty cluster takes over the outlier instead of dying."""
    from sseg_core.pseudomask.kmeans import _means

    tokens = torch.tensor([[[0.0], [1.0], [2.0], [50.0]]])
    labels = torch.zeros(1, 4, dtype=torch.int64)
    centres = _means(tokens, labels, torch.tensor([[1.0, 0.0, 1.0, 49.0]]), 3)
    assert centres[0, 0].item() == pytest.approx(53 / 4)
    assert centres[0, 1].item() == 50
    # The next empty cluster stays empty (of equal centres the first wins) and gets its turn.
    assert centres[0, 2].item() == 50


def test_half_precision_tokens_are_clustered_in_fp32() -> None:
    """bf16 features give fp32 centres and the clustering of the same values in fp32."""
    tokens = _tokens(6, B=1).bfloat16()
    half, full = kmeans(tokens, 8, [0], 20), kmeans(tokens.float(), 8, [0], 20)
    assert half.centres.dtype == torch.float32
    assert torch.equal(half.labels, full.labels)


def test_the_seed_of_a_key_is_fixed() -> None:
    """It is a function of key and seed, the same on every machine and in every release."""
    assert key_seed("dog", 0) == 5272327008109000481
    assert len({key_seed(key, seed) for key in ("dog", "cat", "0/dog") for seed in (0, 1)}) == 6
