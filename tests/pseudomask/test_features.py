"""Features by name: colour grids, the table of ViTs, what `auto` takes, options refused."""

from __future__ import annotations

import pytest
import timm
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.pseudomask import features
from sseg_core.pseudomask.features import (
    VITS,
    FeatureExtractor,
    build_features,
    licence,
    resolve_features,
    supervision,
    weights_at_hand,
)

CPU = torch.device("cpu")


def _build(name: str, grid: int = 16, **options: object) -> FeatureExtractor:
    values = {"features": name, "grid": grid, **options}
    return build_features(PseudomaskConfig.model_validate(values), CPU)


@pytest.mark.parametrize(("name", "width"), [("texture", 8), ("lab", 5), ("rgb", 3)])
@pytest.mark.parametrize("grid", [8, 20, 64])
def test_colour_features_fill_the_grid(name: str, width: int, grid: int) -> None:
    """Any image size gives grid x grid finite features; a grid may exceed the image."""
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    features = _build(name, grid)(images)
    assert features.shape == (2, grid, grid, width)
    assert torch.isfinite(features).all()


def test_rgb_is_the_mean_colour_of_each_cell() -> None:
    """Area averages, in the orientation of the image."""
    images = torch.zeros(1, 3, 32, 32)
    images[0, 0, :2, 2:4] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    features = _build("rgb", 16)(images)
    assert features[0, 0, 1].tolist() == [0.5, 0, 0]
    assert features.abs().sum().item() == 0.5


def test_lab_holds_colour_and_place() -> None:
    """A grey image differs by place alone: rows by the fourth feature, columns by the fifth."""
    features = _build("lab")(torch.full((1, 3, 64, 64), 0.5))[0]
    assert torch.allclose(features[..., :3], features[:1, :1, :3], atol=1e-4)
    assert torch.allclose(features[..., 1:3], torch.zeros(2), atol=1e-3)
    assert (features[1:, :, 3] > features[:-1, :, 3]).all()
    assert (features[:, 1:, 4] > features[:, :-1, 4]).all()
    assert 0 < features[0, 0, 3] < features[-1, 0, 3] < 1


def test_lab_tells_colours_apart_more_than_shades() -> None:
    """Red and green are farther from each other than a lit and a shaded red."""
    colors = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.06, 0.06], [0.1, 0.6, 0.1]])
    red, shade, green = _build("lab", 8)(colors[:, :, None, None].expand(3, 3, 32, 32))[:, 0, 0]
    assert (red - shade).norm() < (red - green).norm() / 2


@pytest.mark.parametrize("name", sorted(VITS))
def test_every_short_name_is_a_model_with_weights_on_the_hub(name: str) -> None:
    """timm knows the model and its repository; the patch size is the number in the short name."""
    timm_name = VITS[name]
    assert timm_name in timm.list_pretrained()
    assert timm.get_pretrained_cfg(timm_name).hf_hub_id == f"timm/{timm_name}"
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0)
    assert name.removesuffix("_reg").endswith(str(model.patch_embed.patch_size[0]))
    assert (model.reg_token is not None) == (name.endswith("_reg") or "dinov3" in name)


def test_supervision_and_licence_are_known() -> None:
    """As in the Sup. column of Table 1; the licence is what timm states."""
    expected = {"rgb": "none", "imagenet_vits16": "label", "groupvit": "text", "dino_vits8": "self"}
    assert {name: supervision(name) for name in expected} == expected
    assert supervision("timm:vit_base_patch16_224.mae") == "self"
    assert supervision("timm:nothing") is None
    assert licence("dino_vits8") == "apache-2.0"
    assert licence("timm:vit_base_patch16_224.mae") == "cc-by-nc-4.0"
    assert licence("dinov3_vits16") == "dinov3-license"
    assert (licence("rgb"), licence("timm:nothing")) == (None, None)


@pytest.mark.parametrize(("cached", "expected"), [(True, "dino_vits8"), (False, "texture")])
def test_auto_is_dino_where_its_weights_are_at_hand(
    cached: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's features from the cache, else those that need no weights; no network."""
    monkeypatch.setattr(features, "weights_at_hand", {"dino_vits8": cached}.__getitem__)
    assert resolve_features("auto") == expected


def test_features_without_weights_are_always_at_hand() -> None:
    """Nothing to fetch for plain pixels; a model that timm does not know is nowhere."""
    assert all(weights_at_hand(name) for name in ("texture", "lab", "rgb"))
    assert not weights_at_hand("timm:nothing")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("laab", "'lab'"),
        ("dino_vits9", "'dino_vits8'"),
        ("dinov2_vits14_regs", "'dinov2_vits14_reg'"),
        ("group_vit", "'groupvit'"),
        ("timm:vit_smal_patch8_224.dino", "'vit_small_patch8_224.dino'"),
        ("timm:vit_small_patch8_224.dinoo", "'vit_small_patch8_224.dino'"),
        ("timm:resnet18", "dino_vits8"),
        ("timm:", "Choose one of"),
    ],
)
def test_unknown_features_are_refused_with_a_suggestion(name: str, hint: str) -> None:
    """A typo gets the nearest name, a CNN the reason why it cannot serve."""
    with pytest.raises(ConfigError) as error:
        _build(name)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "dino.pth"}, "lab features have no weights"),
        ({"facet": "key"}, "lab features have no facets"),
    ],
)
def test_options_of_a_vit_are_refused_for_colours(options: dict[str, str], message: str) -> None:
    """`--features lab --weights FILE` is a mistake, not a silent no-op."""
    with pytest.raises(ConfigError, match=message):
        _build("lab", **options)
