"""The whole network: any image size, independent images, unit features, gradients everywhere."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sseg_core.config import BackboneConfig, DecoderConfig, ModelConfig, TextConfig
from sseg_core.models.build import build_model
from sseg_core.models.mask_decoder import pool_features
from sseg_core.models.sseg import SSeg
from sseg_core.structures import SegmenterOutput

Q, D, STRIDE, COARSEST = 5, 24, 4, 16


def _model(**decoder: Any) -> SSeg:
    torch.manual_seed(0)
    options = {"channels": [8, 16, 24, 32], "stem_width": 8}
    sizes = {"num_queries": Q, "hidden_dim": 32, "layers": 2, "heads": 2, "feedforward_dim": 32}
    return build_model(
        ModelConfig(
            backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3), options=options),
            decoder=DecoderConfig(**{**sizes, "dropout": 0.0, **decoder}),
            text=TextConfig(layers=1, width=16, heads=2, context_length=8),
            embed_dim=D,
        )
    )


def _trained_norms(model: SSeg) -> SSeg:
    """Run a batch through, so that the running statistics of BatchNorm are not their defaults."""
    with torch.no_grad():
        model.encode_images(torch.rand(8, 3, 64, 64))
    return model.eval()


def _images(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


TOKENS = torch.tensor([[3, 7, 49407, 0], [5, 49407, 0, 0]])


@pytest.mark.parametrize("mask_feature", ["query", "pooled"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (16, 32), (3, 130)])
def test_any_image_size_gives_a_grid_that_covers_it(
    height: int, width: int, mask_feature: str
) -> None:
    """The mask grid has ceil(H / stride) x ceil(W / stride) cells, and all values are finite."""
    model = _model(mask_feature=mask_feature).eval()
    output = model.encode_images(_images(2, 3, height, width))
    grid = (2, Q, math.ceil(height / STRIDE), math.ceil(width / STRIDE))
    assert (output.stride, model.stride) == (STRIDE, STRIDE)
    assert [grid, grid] == [
        tuple(logits.shape) for logits in (output.mask_logits, *output.auxiliary_mask_logits)
    ]
    assert output.mask_features.shape == (2, Q, 32)
    assert output.mask_logits.isfinite().all()
    assert output.mask_features.isfinite().all()


@pytest.mark.parametrize("masked_attention", [False, True])
def test_padding_is_the_mean_colour_and_is_cut_off(masked_attention: bool) -> None:
    """An image padded by hand with the mean colour gives the same masks on the cells it shares."""
    model = _trained_norms(_model(masked_attention=masked_attention))
    image = _images(1, 3, 37, 61)
    by_hand = model.mean.expand(1, 3, 48, 64).clone()
    by_hand[..., :37, :61] = image
    padded, whole = model.encode_images(image), model.encode_images(by_hand)
    torch.testing.assert_close(padded.mask_logits, whole.mask_logits[..., :10, :16])
    torch.testing.assert_close(padded.mask_features, whole.mask_features)


def test_pooled_features_leave_padding_out() -> None:
    """Cells that hold only padding have no share in a pooled mask feature."""
    model = _trained_norms(_model(mask_feature="pooled"))
    image = _images(1, 3, 37, 61)
    output = model.encode_images(image)
    by_hand = model.mean.expand(1, 3, 48, 64).clone()
    by_hand[..., :37, :61] = image
    normalised = (by_hand - model.mean) / model.std
    _, features = model.pixel_decoder(model.backbone(normalised))
    expected = pool_features(output.mask_logits, features[..., :10, :16])
    torch.testing.assert_close(output.mask_features, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, model.encode_images(by_hand).mask_features, atol=1e-3)


@pytest.mark.parametrize("mask_feature", ["query", "pooled"])
def test_images_and_texts_of_a_batch_do_not_influence_each_other(mask_feature: str) -> None:
    """In eval mode a batch gives what its members give alone."""
    model = _trained_norms(_model(mask_feature=mask_feature))
    images = _images(2, 3, 40, 64)
    together = model(images, TOKENS)
    for i in range(2):
        alone = model(images[i : i + 1], TOKENS[i : i + 1])
        for actual, expected in zip(_tensors(together), _tensors(alone), strict=True):
            torch.testing.assert_close(actual[i : i + 1], expected, atol=1e-5, rtol=1e-4)


def _tensors(output: SegmenterOutput) -> tuple[Tensor, ...]:
    masks = output.masks
    return (
        masks.mask_logits, masks.mask_features, *masks.auxiliary_mask_logits,
        output.image_features, output.text_features,
    )  # fmt: skip


@pytest.mark.parametrize("masked_attention", [False, True])
@pytest.mark.parametrize("mask_feature", ["query", "pooled"])
def test_gradients_reach_every_parameter(mask_feature: str, masked_attention: bool) -> None:
    """A loss of masks, similarities and temperature moves all weights.

    Exempt are weights whose gradient is 0 by construction: the queries enter the first layer as
    zeros, so its self-attention has equal values; and a key's bias shifts all scores alike.
    """
    model = _model(mask_feature=mask_feature, masked_attention=masked_attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # some start at 0 and hold up what lies before them
                parameter.add_(0.1 * torch.randn_like(parameter))
    output = model(_images(2, 3, 64, 64), TOKENS)
    logits = torch.stack([output.masks.mask_logits, *output.masks.auxiliary_mask_logits])
    similarity = output.logit_scale * output.image_features @ output.text_features.T
    (logits.sigmoid().square().mean() + similarity.log_softmax(-1).diag().mean()).backward()
    parameters = dict(model.named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None] == []
    unmoved = {n for n, p in parameters.items() if p.grad is not None and not p.grad.any()}
    first = "mask_decoder.layers.0.self_attention."
    exempt = {f"{first}{part}.{kind}" for part in ("query", "key") for kind in ("weight", "bias")}
    exempt |= {f"{first}value.weight"} | {n for n in parameters if n.endswith("key.bias")}
    assert unmoved <= exempt
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())


def test_features_have_unit_length() -> None:
    """Image, text and projected mask features lie on the unit sphere."""
    model = _model(mask_feature="pooled").eval()
    output = model(_images(2, 3, 32, 32), TOKENS)
    masks = model.project_masks(output.masks.mask_features)
    assert masks.shape == (2, Q, D)
    for features in (masks, output.image_features, output.text_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))


def test_an_image_is_the_projected_mean_of_its_masks() -> None:
    """The mean is taken before the projection (S-Seg Sec. 3.3.2)."""
    model = _model().eval()
    masks = model.encode_images(_images(2, 3, 32, 32))
    mean = replace(masks, mask_features=masks.mask_features.mean(1, keepdim=True))
    torch.testing.assert_close(
        model.image_features(masks), model.project_masks(mean.mask_features)[:, 0]
    )


@pytest.mark.parametrize("mask_feature", ["query", "pooled"])
def test_bf16_autocast_is_finite_and_close(mask_feature: str) -> None:
    """Under bf16 autocast everything is finite, features are float32 and near those of float32."""
    model = _model(mask_feature=mask_feature, masked_attention=True)
    images = _images(2, 3, 48, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, TOKENS)
        (half.image_features.sum() + half.masks.mask_logits.square().mean()).backward()
    assert all(tensor.isfinite().all() for tensor in _tensors(half))
    image_half = [p for n, p in model.named_parameters() if n.startswith(("mask", "pixel", "back"))]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image_half)
    assert half.image_features.dtype == half.text_features.dtype == torch.float32
    full = model(images, TOKENS)
    torch.testing.assert_close(half.image_features, full.image_features, atol=0.05, rtol=0)


def test_the_temperature_starts_as_in_clip_and_stays_bounded() -> None:
    """1 / sigma starts at 1 / 0.07 and never exceeds 100, from where it can come down again."""
    model = _model()
    assert model.similarity_scale().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    scale = model.similarity_scale()
    assert scale.item() == pytest.approx(100)
    scale.backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(100)
    with torch.inference_mode():
        assert model.similarity_scale().item() == pytest.approx(100)


def test_constants_are_not_weights() -> None:
    """Mean and standard deviation move with the model but are not in its state."""
    model = _model()
    assert not {"mean", "std"} & set(model.state_dict())
    assert {"mean", "std"} == {name for name, _ in model.named_buffers(recurse=False)}


@pytest.mark.parametrize("masked_attention", [False, True])
def test_nothing_waits_for_the_device(masked_attention: bool) -> None:
    """Forward and backward ask no tensor for its values: they run where tensors have none."""
    model = _model(masked_attention=masked_attention).to("meta")
    output = model(torch.rand(2, 3, 37, 61, device="meta"), TOKENS.to("meta"))
    loss = (output.image_features * output.text_features).sum() * output.logit_scale
    (loss + output.masks.mask_logits.sum()).backward()
    assert model.mask_decoder.query_position.grad is not None
