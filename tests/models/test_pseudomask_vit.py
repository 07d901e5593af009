"""Baseline 2: tokens pooled in each pseudo-segment, and the segments into one embedding."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.config import BackboneConfig, DecoderConfig, LossConfig, ModelConfig, TextConfig
from sseg_core.errors import ConfigError
from sseg_core.inference.combine import MaskGrid, best_classes, class_probabilities
from sseg_core.losses.criterion import criterion
from sseg_core.models.build import build_model
from sseg_core.models.pseudomask_vit import CERTAIN, PseudoMaskViT
from sseg_core.recipes import paper, pseudomask_vit
from sseg_core.structures import IGNORE_LABEL

K, D, WIDTH, PATCH, STRIDE = 6, 24, 32, 8, 2
VIT = {"patch_size": PATCH, "img_size": 32, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
TOKENS = torch.tensor([[3, 7, 49407, 0], [5, 49407, 0, 0]])


def _model(**decoder: Any) -> PseudoMaskViT:
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(
            architecture="pseudomask_vit",
            backbone=BackboneConfig(name="vit_tiny_patch16_224", out_indices=(-1,), options=VIT),
            decoder=DecoderConfig(**{"num_queries": K, **decoder}),
            text=TextConfig(layers=1, width=16, heads=2, context_length=8),
            embed_dim=D,
        )
    )
    assert isinstance(model, PseudoMaskViT)
    return model


def _images(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


def _label_maps(*size: int, ids: int = K) -> Tensor:
    """Blocks of 3 x 3 pixels of random segments."""
    B, H, W = size
    generator = torch.Generator().manual_seed(2)
    cells = torch.randint(ids, (B, 1, -(-H // 3), -(-W // 3)), generator=generator)
    return F.interpolate(cells.float(), scale_factor=3).to(torch.uint8)[:, 0, :H, :W]


def test_segment_features_are_the_mean_tokens_of_a_plain_vit() -> None:
    """timm's own ViT and NumPy, patch by patch, give the same features and image embedding."""
    model = _model().eval()
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).eval()
    weights = {
        name.removeprefix("model."): t for name, t in model.backbone.body.state_dict().items()
    }
    plain.load_state_dict(
        {**weights, "norm.weight": torch.rand(WIDTH), "norm.bias": torch.rand(WIDTH)}
    )
    model.norm.load_state_dict(plain.norm.state_dict())
    images, label_maps = _images(2, 3, 32, 32), _label_maps(2, 32, 32)
    label_maps[0, :9] = IGNORE_LABEL
    with torch.no_grad():
        output = model(images, TOKENS, label_maps)
        tokens = plain.forward_features((images - model.mean) / model.std)[:, 1:]
    # The cells of the mask grid see the pixel at their centre, here the lower right of four.
    cells = label_maps[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].numpy()
    by_patch = cells.reshape(2, 4, 4, 4, 4).transpose(0, 1, 3, 2, 4).reshape(2, 16, 16)
    for b in range(2):
        means = []
        for k in range(K):
            share = (by_patch[b] == k).mean(axis=1)
            assert share.any()
            means.append((share[:, None] * tokens[b].numpy()).sum(0) / share.sum())
        expected = torch.from_numpy(np.stack(means)).float()
        torch.testing.assert_close(output.masks.mask_features[b], expected, atol=1e-5, rtol=1e-4)
        embedded = F.normalize(model.mask_projection(expected.mean(0)), dim=-1)
        torch.testing.assert_close(output.image_features[b], embedded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (16, 32), (3, 130)])
@pytest.mark.parametrize("map_size", [(1, 1), (5, 9), (64, 64)])
def test_any_image_and_any_map_give_a_grid_that_covers_the_image(
    height: int, width: int, map_size: tuple[int, int]
) -> None:
    """The mask grid has ceil(H / stride) x ceil(W / stride) cells, each in the segment it shows."""
    model = _model().eval()
    label_maps = _label_maps(2, *map_size)
    output = model.encode_images(_images(2, 3, height, width), label_maps)
    h, w = math.ceil(height / STRIDE), math.ceil(width / STRIDE)
    assert (output.stride, model.stride) == (STRIDE, STRIDE)
    assert output.mask_logits.shape == (2, K, h, w)
    assert output.mask_features.shape == (2, K, WIDTH)
    assert output.mask_features.isfinite().all()
    assert output.mask_logits.abs().eq(CERTAIN).all()
    # The map stretched over the image, read at the centres of the cells.
    rows = [min(int((i + 0.5) * STRIDE / height * map_size[0]), map_size[0] - 1) for i in range(h)]
    columns = [
        min(int((j + 0.5) * STRIDE / width * map_size[1]), map_size[1] - 1) for j in range(w)
    ]
    assert torch.equal(output.mask_logits.argmax(1), label_maps[:, rows][:, :, columns].long())


def test_padding_counts_nothing() -> None:
    """A segment that reaches the border of an odd image has the mean of what is in the image."""
    model = _model().eval()
    images = _images(1, 3, 12, 20)  # patches of 8: the last ones are half in the image
    output = model.encode_images(images, torch.zeros(1, 1, 1, dtype=torch.uint8))
    padded = model.mean.expand(1, 3, 16, 24).clone()
    padded[..., :12, :20] = images
    tokens = model.norm(model.backbone((padded - model.mean) / model.std)[-1].permute(0, 2, 3, 1))
    shares = torch.tensor([[1, 1, 0.5], [0.5, 0.5, 0.25]])
    expected = (shares[..., None] * tokens[0]).sum((0, 1)) / shares.sum()
    torch.testing.assert_close(output.mask_features[0, 0], expected, atol=1e-5, rtol=1e-4)


def test_the_numbers_of_the_segments_do_not_matter() -> None:
    """Renumbered segments have the same features in the new order, and the same embedding."""
    model = _model().eval()
    images, label_maps = _images(2, 3, 32, 32), _label_maps(2, 32, 32)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    before = model(images, TOKENS, label_maps)
    after = model(images, TOKENS, order[label_maps.long()].to(torch.uint8))
    features = after.masks.mask_features[:, order]
    torch.testing.assert_close(features, before.masks.mask_features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.image_features, before.image_features, atol=1e-5, rtol=1e-4)


def test_absent_segments_do_not_count() -> None:
    """Three slots or six, gaps or none: the embedding is that of the segments that are there."""
    label_maps = _label_maps(2, 32, 32, ids=3)
    images = _images(2, 3, 32, 32)
    few, many = _model(num_queries=3).eval(), _model().eval()
    many.load_state_dict(few.state_dict())
    expected = few(images, TOKENS, label_maps).image_features
    for spread in (label_maps, label_maps * 2):
        torch.testing.assert_close(many(images, TOKENS, spread).image_features, expected)
    logits = many.encode_images(images, label_maps).mask_logits
    assert (logits[:, 3:] == -CERTAIN).all()


def test_an_image_without_segments_is_the_mean_of_its_tokens() -> None:
    """So it is for a map of IGNORE_LABEL, and for one of ids that the model has no slot for."""
    model = _model().eval()
    images = _images(2, 3, 32, 32)
    whole = model(images, TOKENS, torch.zeros(2, 4, 4, dtype=torch.uint8)).image_features
    for value in (IGNORE_LABEL, K):
        empty = torch.full((2, 4, 4), value, dtype=torch.uint8)
        output = model(images, TOKENS, empty)
        torch.testing.assert_close(output.image_features, whole)
        assert (output.masks.mask_logits == -CERTAIN).all()


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    """A batch gives what its members give alone, one of them without any segment."""
    model = _model().eval()
    images, label_maps = _images(2, 3, 40, 24), _label_maps(2, 40, 24)
    label_maps[1] = IGNORE_LABEL
    together = model(images, TOKENS, label_maps)
    for i in range(2):
        one = slice(i, i + 1)
        alone = model(images[one], TOKENS[one], label_maps[one])
        torch.testing.assert_close(
            alone.masks.mask_features, together.masks.mask_features[one], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            alone.image_features, together.image_features[one], atol=1e-5, rtol=1e-4
        )


def test_every_pixel_gets_the_class_of_its_segment() -> None:
    """The label map of the combined masks is that of each segment classified by itself."""
    model = _model().eval()
    images = _images(2, 3, 32, 48)
    stripes = (torch.arange(48) // 8).to(torch.uint8).expand(32, 48)
    label_maps = torch.stack([stripes, stripes.flip(1)])
    texts = F.normalize(torch.randn(5, D), dim=-1)
    output = model.encode_images(images, label_maps)
    with torch.no_grad():
        classes = class_probabilities(model.project_masks(output.mask_features), texts, 30.0)
    best = best_classes(output.mask_logits, classes, (32, 48), MaskGrid((32, 48), output.stride))
    winners = classes.max(dim=2)
    expected = torch.stack([winners.indices[b][label_maps[b].long()] for b in range(2)])
    assert len(expected.unique()) > 1
    assert torch.equal(best.classes.long(), expected)
    # Two pixels at a border are as near to the cell beyond as to be shared out by a little.
    inner = torch.arange(48) % 8
    inner = (inner > 0) & (inner < 7)
    certain = torch.stack([winners.values[b][label_maps[b].long()] for b in range(2)])
    torch.testing.assert_close(best.probabilities[..., inner], certain[..., inner])


def test_a_toy_batch_is_learned_and_every_parameter_moves() -> None:
    """The contrastive loss alone falls to a tenth on eight images, with gradients everywhere."""
    model = _model()
    images, label_maps = _images(8, 3, 32, 32), _label_maps(8, 32, 32)
    tokens = torch.stack([torch.tensor([5 + i, 49407, 0]) for i in range(8)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        terms = criterion(model(images, tokens, label_maps), label_maps, K, LossConfig(mask=0))
        terms.total.backward()
        losses.append(terms.total.item())
        if step == 1:  # biases that start at 0 hold up what lies before them
            parameters = dict(model.named_parameters())
            assert [n for n, p in parameters.items() if p.grad is None or not p.grad.any()] == []
            assert all(p.grad.isfinite().all() for p in parameters.values() if p.grad is not None)
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_bf16_autocast_is_finite_and_close() -> None:
    """Under bf16 autocast segments are pooled in float32, near those of float32."""
    model = _model()
    images, label_maps = _images(2, 3, 32, 32), _label_maps(2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, TOKENS, label_maps)
        half.image_features.sum().backward()
    assert half.masks.mask_features.dtype == half.image_features.dtype == torch.float32
    full = model(images, TOKENS, label_maps)
    torch.testing.assert_close(half.image_features, full.image_features, atol=0.05, rtol=0)


def test_images_without_label_maps_are_segmented_first() -> None:
    """The segmenter's maps are used as if they were given; without one the way out is named."""
    model = _model().eval()
    images, label_maps = _images(2, 3, 32, 32), _label_maps(2, 32, 32)
    with pytest.raises(ConfigError, match="nothing here makes them"):
        model.encode_images(images)
    seen = []

    def segment(given: Tensor) -> Tensor:
        seen.append(given)
        return label_maps

    model.segmenter = segment
    assert "segmenter" not in str(list(model.state_dict()))
    for network in (model, copy.deepcopy(model)):
        made = network.encode_images(images)
        torch.testing.assert_close(
            made.mask_features, model.encode_images(images, label_maps).mask_features
        )
    assert [given is images for given in seen] == [True, True]


def test_the_recipe_is_the_papers_but_for_the_image_half() -> None:
    """Text, data, schedule and batch are those of `paper`; there is no mask loss."""
    recipe, base = pseudomask_vit(), paper()
    assert recipe.model.architecture == "pseudomask_vit"
    assert recipe.model.decoder.num_queries == recipe.masks.generator.masks
    assert recipe.loss == LossConfig(mask=0)
    with torch.device("meta"):
        body = build_model(recipe.model).backbone.body
    assert sum(p.numel() for p in body.parameters()) == 21_665_664 - 2 * 384  # DINO's ViT-S/16
    model = base.model.model_copy(
        update={
            name: getattr(recipe.model, name) for name in ("architecture", "backbone", "decoder")
        }
    )
    same = {"recipe": recipe.recipe, "loss": recipe.loss, "model": model}
    assert recipe == base.model_copy(update=same)


@pytest.mark.parametrize(("patch", "stride"), [(16, 4), (14, 7), (8, 2)])
def test_cells_divide_patches(patch: int, stride: int) -> None:
    """A patch is a whole number of cells wide, four where that is possible."""
    options = {**VIT, "patch_size": patch, "img_size": 2 * patch}
    config = ModelConfig(
        architecture="pseudomask_vit",
        backbone=BackboneConfig(name="vit_tiny_patch16_224", out_indices=(-1,), options=options),
        decoder=DecoderConfig(num_queries=K),
        text=TextConfig(layers=1, width=16, heads=2, context_length=8),
    )
    assert build_model(config).stride == stride


def test_more_segments_than_a_label_map_can_hold_are_refused() -> None:
    """Ids are bytes and 255 is none of them."""
    with pytest.raises(ConfigError, match="at most 255"):
        _model(num_queries=256)
