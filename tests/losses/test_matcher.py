"""matcher: bipartite matching of queries and pseudo-masks, against transformers and brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher

from sseg_core.config import LossConfig
from sseg_core.losses.mask import dice_loss, focal_loss
from sseg_core.losses.mask_targets import mask_targets
from sseg_core.losses.matcher import match, matching_costs, send_costs
from sseg_core.structures import IGNORE_LABEL, MaskTargets

CONFIG = LossConfig()


def _problem(
    seed: int, B: int = 3, Q: int = 6, segments: int = 4, ignore: bool = False
) -> tuple[torch.Tensor, MaskTargets]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, segments, (B, 8, 10), generator=generator, dtype=torch.uint8)
    if ignore:
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE_LABEL
    logits = 3 * torch.randn(B, Q, 8, 10, generator=generator)
    return logits, mask_targets(labels, (8, 10), 8)


@pytest.mark.parametrize("seed", range(5))
def test_the_pairs_are_those_of_transformers_without_a_class_cost(seed: int) -> None:
    """The same queries go to the same masks as in MaskFormer's own matcher at cost_class 0."""
    logits, targets = _problem(seed)
    per_image = [masks[p] for masks, p in zip(targets.masks, targets.present, strict=True)]
    theirs = MaskFormerHungarianMatcher(cost_class=0, cost_mask=20, cost_dice=1)(
        logits,
        torch.zeros(len(logits), logits.shape[1], 2),
        per_image,
        [torch.zeros(len(masks), dtype=torch.int64) for masks in per_image],
    )
    ours = match(send_costs([matching_costs(logits, targets, CONFIG)], targets.present))
    for image, (queries, masks) in enumerate(theirs):
        here = ours.images == image
        assert torch.equal(ours.queries[0, here], queries)
        assert torch.equal(ours.masks[0, here], targets.present[image].nonzero()[:, 0][masks])


@pytest.mark.parametrize("ignore", [False, True])
def test_a_cost_is_the_weighted_loss_of_the_pair(ignore: bool) -> None:
    """Matching costs equal the losses that the pair would have, ignored cells left out of both."""
    logits, targets = _problem(1, ignore=ignore)
    costs = matching_costs(logits, targets, CONFIG)
    for image, q, k in itertools.product(*map(range, costs.shape)):
        pair = (logits[image, q][None], targets.masks[image, k][None], targets.valid[image][None])
        expected = 20 * focal_loss(*pair) + dice_loss(*pair)
        # fp32 sums in another order
        torch.testing.assert_close(costs[image, q, k], expected[0], rtol=1e-4, atol=1e-5)


def test_the_sum_of_costs_is_the_least_of_all_assignments() -> None:
    """No other assignment of masks to queries is cheaper, by brute force."""
    logits, targets = _problem(2, B=2, Q=5, segments=3)
    costs = matching_costs(logits, targets, CONFIG)
    matching = match(send_costs([costs], targets.present))
    for image, present in enumerate(targets.present):
        here = matching.images == image
        chosen = costs[image, matching.queries[0, here], matching.masks[0, here]].sum()
        slots = present.nonzero()[:, 0].tolist()
        best = min(
            sum(costs[image, q, k].item() for k, q in zip(slots, queries, strict=True))
            for queries in itertools.permutations(range(5), len(slots))
        )
        assert chosen.item() == pytest.approx(best, rel=1e-5)


def test_images_without_masks_get_no_pairs() -> None:
    """Empty images among others leave the others' pairs as they are."""
    logits, _ = _problem(3, B=3)
    labels = torch.full((3, 8, 10), IGNORE_LABEL, dtype=torch.uint8)
    labels[1, :4] = 0
    labels[1, 4:] = 5
    targets = mask_targets(labels, (8, 10), 8)
    matching = match(send_costs([matching_costs(logits, targets, CONFIG)], targets.present))
    assert matching.images.tolist() == [1, 1]
    assert sorted(matching.masks[0].tolist()) == [0, 5]


def test_a_batch_without_masks_gets_no_pairs_at_all() -> None:
    """All images empty: zero pairs in every layer, no error."""
    logits, _ = _problem(3, B=2)
    targets = mask_targets(torch.full((2, 8, 10), IGNORE_LABEL, dtype=torch.uint8), (8, 10), 8)
    costs = matching_costs(logits, targets, CONFIG)
    matching = match(send_costs([costs, costs], targets.present))
    assert matching.images.shape == (0,)
    assert matching.queries.shape == matching.masks.shape == (2, 0)


def test_more_masks_than_queries_leaves_the_dearest_masks_out() -> None:
    """K > Q: every query is used once, and no mask twice."""
    logits, targets = _problem(4, B=2, Q=2, segments=5)
    matching = match(send_costs([matching_costs(logits, targets, CONFIG)], targets.present))
    assert matching.images.tolist() == [0, 0, 1, 1]
    assert matching.queries[0].tolist() == [0, 1, 0, 1]
    assert len(set(zip([0, 0, 1, 1], matching.masks[0].tolist(), strict=True))) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_query_that_is_not_finite_is_taken_only_when_no_other_is_left(bad: float) -> None:
    """NaN and infinite logits neither stop the matcher nor win a mask."""
    logits, targets = _problem(5, Q=6)
    logits[:, 2] = float("nan")
    logits[:, 4] = bad
    costs = matching_costs(logits, targets, CONFIG)
    assert torch.isfinite(costs).all()
    matching = match(send_costs([costs], targets.present))
    assert 2 not in matching.queries[0]
    assert match(send_costs([costs[:, 2:3]], targets.present)).queries.shape == (1, 3)


def test_layers_and_images_are_matched_independently() -> None:
    """Matching several layers and images at once equals matching each alone."""
    logits, targets = _problem(6)
    other = logits.flip(1)
    costs = [matching_costs(layer, targets, CONFIG) for layer in (logits, other)]
    together = match(send_costs(costs, targets.present))
    for layer in range(2):
        alone = match(send_costs([costs[layer]], targets.present))
        assert torch.equal(together.queries[layer], alone.queries[0])
        assert torch.equal(together.masks[layer], alone.masks[0])
    for image in range(len(logits)):
        one = slice(image, image + 1)
        single = MaskTargets(targets.masks[one], targets.valid[one], targets.present[one])
        alone = match(send_costs([matching_costs(logits[one], single, CONFIG)], single.present))
        here = together.images == image
        assert torch.equal(together.queries[0, here], alone.queries[0])
        assert torch.equal(together.masks[0, here], alone.masks[0])
