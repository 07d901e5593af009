"""The mask decoder: what queries may see, positions, and pooled features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sseg_core.config import DecoderConfig
from sseg_core.errors import ConfigError
from sseg_core.models.mask_decoder import (
    DecoderLayer,
    MaskDecoder,
    pool_features,
    sine_position,
)

TINY = DecoderConfig(num_queries=5, hidden_dim=16, layers=2, heads=2, feedforward_dim=32, dropout=0)


def test_one_mask_per_query_after_each_layer() -> None:
    """Queries are [B, Q, D]; each of the layers gives [B, Q, h, w] logits."""
    queries, logits = MaskDecoder(TINY, 12)(torch.randn(3, 12, 2, 4), torch.randn(3, 16, 8, 16))
    assert queries.shape == (3, 5, 16)
    assert [tuple(layer.shape) for layer in logits] == [(3, 5, 8, 16)] * 2


def test_a_layer_does_not_see_what_is_hidden() -> None:
    """Only cells that are visible to a query have an influence on it."""
    torch.manual_seed(0)
    layer = DecoderLayer(TINY)
    memory = torch.randn(1, 6, 16, requires_grad=True)
    visible = torch.rand(1, 1, 5, 6) < 0.5
    visible[..., 0] = True
    queries = layer(torch.randn(1, 5, 16), torch.randn(5, 16), memory, torch.randn(6, 16), visible)
    # A fixed random direction: the sum of a layer-normed vector is constant.
    direction = torch.randn(16)
    for q in range(5):
        (gradient,) = torch.autograd.grad(queries[0, q] @ direction, memory, retain_graph=True)
        assert torch.equal(visible[0, 0, q], gradient[0].abs().sum(-1) > 0)


def _influence_of_cells(decoder: MaskDecoder, mask: Tensor) -> Tensor:
    """Return [h', w'] bool: whether a cell of the coarsest level moves the final queries.

    All queries are made to predict `mask` ([h, w], 1 inside and -1 outside) and the first layer,
    which sees everything, is made blind.
    """
    with torch.no_grad():
        decoder.layers[0].cross_attention.output.weight.zero_()
        decoder.mask_embedder[-1].weight.zero_()
        decoder.mask_embedder[-1].bias.fill_(1)
    coarsest = torch.randn(1, 12, 2, 4, requires_grad=True)
    queries, logits = decoder(coarsest, mask.expand(1, 16, *mask.shape))
    torch.testing.assert_close(logits[0], 16 * mask.expand(1, 5, *mask.shape))
    (queries @ torch.randn(16)).sum().backward()
    assert coarsest.grad is not None
    return coarsest.grad[0].abs().sum(0) > 0


@pytest.fixture
def left_half() -> Tensor:
    """A mask of 8 x 16 cells whose left half is inside."""
    mask = -torch.ones(8, 16)
    mask[:, :8] = 1
    return mask


def test_masked_attention_looks_only_inside_the_mask(left_half: Tensor) -> None:
    """With masked attention the right half of the memory has no influence on the queries."""
    decoder = MaskDecoder(TINY.model_copy(update={"masked_attention": True}), 12)
    seen = _influence_of_cells(decoder, left_half)
    assert seen.tolist() == [[True, True, False, False]] * 2


def test_a_query_with_an_empty_mask_looks_everywhere(left_half: Tensor) -> None:
    """With masked attention, a mask that is nowhere likely hides nothing."""
    decoder = MaskDecoder(TINY.model_copy(update={"masked_attention": True}), 12)
    assert _influence_of_cells(decoder, -torch.ones_like(left_half)).all()


def test_plain_attention_looks_everywhere(left_half: Tensor) -> None:
    """Without masked attention the mask hides nothing."""
    assert _influence_of_cells(MaskDecoder(TINY, 12), left_half).all()


def test_positions_tell_all_cells_apart() -> None:
    """No two cells share an embedding, rows and columns fill one half of the channels each."""
    position = sine_position(3, 5, 16, torch.device("cpu")).view(3, 5, 16)
    assert torch.equal(position[:, :1, :8].expand(-1, 5, -1), position[..., :8])
    assert torch.equal(position[:1, :, 8:].expand(3, -1, -1), position[..., 8:])
    assert torch.cdist(position.view(15, 16), position.view(15, 16)).add(torch.eye(15)).min() > 0.1


def test_a_pooled_feature_is_the_mean_under_its_mask() -> None:
    """Pooling equals the loop over cells that its formula describes."""
    logits, features = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    pooled = pool_features(logits, features)
    assert pooled.shape == (2, 3, 6)
    for b in range(2):
        for q in range(3):
            weighted, total = torch.zeros(6), torch.zeros(())
            for y in range(4):
                for x in range(5):
                    weight = torch.sigmoid(logits[b, q, y, x])
                    weighted += weight * features[b, :, y, x]
                    total += weight
            torch.testing.assert_close(pooled[b, q], weighted / total)


def test_pooling_an_empty_mask_is_finite() -> None:
    """Where every sigmoid underflows, the most likely cells still give the feature."""
    logits = torch.full((1, 1, 1, 3), -1e4)
    logits[..., 1] = -9e3
    features = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    assert pool_features(logits, features).item() == pytest.approx(2)


def test_pooling_sends_gradients_to_masks_and_features() -> None:
    """A mask grows where the features are like what is asked for, and shrinks elsewhere."""
    logits = torch.zeros(1, 1, 1, 2, requires_grad=True)
    features = torch.tensor([3.0, -1.0]).view(1, 1, 1, 2).requires_grad_()
    pool_features(logits, features).sum().backward()
    assert logits.grad is not None
    assert features.grad is not None
    torch.testing.assert_close(features.grad.flatten(), torch.tensor([0.5, 0.5]))
    # d/dm of the quotient: sigmoid'(m) (f - mean) / sum of sigmoids = 0.25 (f - 1) / 1.
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.5, -0.5]))


@pytest.mark.parametrize("change", [{"hidden_dim": 20}, {"hidden_dim": 16, "heads": 3}])
def test_a_width_that_does_not_divide_is_refused(change: dict[str, int]) -> None:
    """The width must be a multiple of 8 and of the heads; the error names the option."""
    with pytest.raises(ConfigError, match=r"decoder\.hidden_dim must be a multiple"):
        MaskDecoder(TINY.model_copy(update=change), 12)
