"""The best class, found without scoring those that cannot win."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sseg_core.inference import best_class
from sseg_core.inference.best_class import Ranking

KINDS = ("peaky", "near uniform", "nested", "equal", "tied", "one hot", "zeros", "tiny")


def _classes(kind: str, C: int, K: int, generator: torch.Generator) -> Tensor:
    """p(c | q), [C, K], of a kind that pruning could stumble over."""
    noise = torch.randn(C, K, generator=generator)
    if kind == "peaky":
        return (8 * noise).softmax(dim=0)
    if kind == "near uniform":  # differences near the last bits of float32
        return (1e-5 * noise).softmax(dim=0)
    if kind == "nested":  # each class a little above the one before it, everywhere
        return (torch.arange(C)[:, None] * torch.full((1, K), 1e-4) + 0.1 * noise[:1]).softmax(0)
    if kind == "equal":
        return torch.full((C, K), 1 / C)
    if kind == "tied":  # many classes that are the same
        return noise.softmax(dim=0)[torch.randint(max(1, C // 4), (C,), generator=generator)] / 4
    if kind == "one hot":
        winners = torch.randint(C, (K,), generator=generator)
        return torch.nn.functional.one_hot(winners, C).T.float().contiguous()
    if kind == "zeros":  # all but a few classes left out, as small ones are
        keep = torch.rand(C, 1, generator=generator) < 0.2
        return (8 * noise).softmax(dim=0) * keep
    return (8 * noise).softmax(dim=0) * 1e-30


def _weights(K: int, r: int, s: int, sharp: float, generator: torch.Generator) -> Tensor:
    """v, [K, r, s], smooth or not."""
    coarse = torch.randn(1, K, max(2, r // 8), max(2, s // 8), generator=generator)
    logits = sharp * torch.nn.functional.interpolate(coarse, (r, s), mode="bilinear")[0]
    weights = logits.double().sigmoid()  # of float32, those of far masks could all be 0
    return (weights / weights.sum(dim=0)).float()


@settings(deadline=None, max_examples=120)
@given(
    kind=st.sampled_from(KINDS),
    C=st.sampled_from([1, 2, 5, 33, 90, 200]),
    K=st.sampled_from([1, 3, 16, 64]),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    sharp=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_pruning_never_loses_the_winner(
    kind: str, C: int, K: int, tiles: tuple[int, int], sharp: float, seed: int
) -> None:
    """With and without it, each pixel has a class whose exact score is the best, to rounding."""
    generator = torch.Generator().manual_seed(seed)
    classes = _classes(kind, C, K, generator)
    weights = _weights(K, 16 * tiles[0], 16 * tiles[1], sharp, generator)
    exact = torch.einsum("ck,krs->crs", classes.double(), weights.double())
    rounding = 4 * K * 2.0**-24 * exact.amax(0)
    for prune in (True, False):
        winners, scores = Ranking(classes, prune=prune).best(weights)
        reached = exact.gather(0, winners[None])[0]
        assert (exact.amax(0) - reached <= rounding).all()
        assert ((scores.double() - exact.amax(0)).abs() <= rounding).all()
        # Where the exact winner is clear of all others, it is the answer.
        second = exact.scatter(0, exact.argmax(0)[None], -1).amax(0)
        clear = exact.amax(0) - second > 2 * rounding
        assert torch.equal(winners[clear], exact.argmax(0)[clear])


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("C", [1, 7, 64, 171])
def test_of_equal_classes_the_first_wins(C: int, prune: bool) -> None:
    """All classes equal give class 0; each class twice gives none of the second ones."""
    generator = torch.Generator().manual_seed(0)
    weights = _weights(16, 48, 80, 3.0, generator)
    winners, scores = Ranking(torch.full((C, 16), 1 / C), prune=prune).best(weights)
    assert (winners == 0).all()
    torch.testing.assert_close(scores, torch.full_like(scores, 1 / C))
    classes = torch.randn(C, 16, generator=generator).softmax(dim=0)
    once = Ranking(classes, prune=prune).best(weights)
    twice = Ranking(torch.cat([classes, classes]), prune=prune).best(weights)
    assert torch.equal(once[0], twice[0])
    order = Ranking(classes.flip(0).repeat_interleave(2, dim=0), prune=prune).best(weights)
    assert (order[0] % 2 == 0).all()


def test_equal_classes_are_scored_once() -> None:
    """Of classes with the same probabilities only the first is scored, whatever rounding does."""
    classes = torch.tensor([[0.1, 0.2], [0.3, 0.3], [0.1, 0.2], [0.3, 0.3], [0.1, 0.1]])
    assert best_class._first_of_equals(classes).tolist() == [0, 1, 4]


def test_most_classes_are_never_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 classes under smooth masks, less than a tenth is scored beside the favourites."""
    generator = torch.Generator().manual_seed(1)
    scored = 0
    of_rivals = Ranking._best_of_rivals

    def counting(self: Ranking, tiles: Tensor, rivals: Tensor, most: int) -> tuple[Tensor, Tensor]:
        nonlocal scored
        scored += len(tiles) * most
        return of_rivals(self, tiles, rivals, most)

    monkeypatch.setattr(Ranking, "_best_of_rivals", counting)
    classes = (8 * torch.randn(300, 32, generator=generator)).softmax(dim=0)
    coarse = torch.randn(1, 32, 4, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (256, 384), mode="bicubic")[0]
    weights = (6 * (smooth - smooth.topk(2, dim=0).values.mean(0))).sigmoid()
    Ranking(classes, prune=True).best(weights / weights.sum(0))
    assert 0 < scored < 0.1 * 300 * (256 * 384 // 256)


def test_small_portions_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few scores are held at once, the result is the same to rounding."""
    generator = torch.Generator().manual_seed(2)
    classes = _classes("near uniform", 150, 24, generator)
    weights = _weights(24, 32, 96, 3.0, generator)
    expected = {prune: Ranking(classes, prune=prune).best(weights) for prune in (True, False)}
    monkeypatch.setattr(best_class, "_SCORES_AT_ONCE", 1)
    for prune, (_, scores) in expected.items():
        winners, again = Ranking(classes, prune=prune).best(weights)
        torch.testing.assert_close(again, scores)
        exact = torch.einsum("ck,krs->crs", classes.double(), weights.double())
        reached = exact.gather(0, winners[None])[0]
        torch.testing.assert_close(reached, exact.amax(0), rtol=1e-5, atol=0)


def test_a_model_that_returns_nan_is_not_hidden() -> None:
    """NaN among the weights or the classes comes out as a NaN score, and nothing fails."""
    generator = torch.Generator().manual_seed(3)
    for where in ("weights", "classes"):
        classes = _classes("peaky", 60, 8, generator)
        weights = _weights(8, 16, 32, 3.0, generator)
        (weights[:, 3, 5] if where == "weights" else classes[:, 2]).fill_(np.nan)
        for prune in (True, False):
            assert Ranking(classes, prune=prune).best(weights)[1][3, 5].isnan()
