"""GroupViT's grouping, against the segmentation of transformers' whole model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel, GroupViTVisionModel

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.pseudomask.features import FeatureExtractor, build_features, weights_at_hand
from sseg_core.pseudomask.groupvit import REPOSITORIES

SIZE, PATCH, GROUPS = 64, 8, 5


@pytest.fixture(scope="module")
def model() -> Any:
    """A small GroupViT of 5 final groups, with weights that group decidedly."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "depths": [1, 1, 1], "num_hidden_layers": 3, "image_size": SIZE, "patch_size": PATCH,
        "num_group_tokens": [9, GROUPS, 0], "num_output_groups": [9, GROUPS, 0],
    }  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    config = GroupViTConfig(
        vision_config=vision, text_config=text, projection_dim=16, projection_intermediate_dim=32
    )
    whole = GroupViTModel(config).eval()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.ndim == 2 or "token" in name:
                parameter.normal_(0, 0.5)
    return whole


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """The whole model as transformers saves it."""
    model.save_pretrained(tmp_path / "groupvit")
    return tmp_path / "groupvit"


def _images() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def _normalised(images: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    return (images - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def _build(weights: Path | None, name: str = "groupvit", **options: Any) -> FeatureExtractor:
    values = {"features": name, "masks": GROUPS, "image_size": SIZE, **options}
    if weights is not None:
        values["weights"] = str(weights)
    return build_features(PseudomaskConfig.model_validate(values), torch.device("cpu"))


def test_the_memberships_are_those_of_the_whole_model(model: Any, folder: Path) -> None:
    """Put in place of its own they give the whole model's segmentation logits."""
    images = _images()
    memberships = _build(folder)(images)
    assert memberships.shape == (2, SIZE // PATCH, SIZE // PATCH, GROUPS)
    torch.testing.assert_close(memberships.sum(3), torch.ones(2, 8, 8))
    assert len(memberships.argmax(3).unique()) > 2  # it does group
    with torch.no_grad():
        output = model(
            input_ids=torch.randint(2, 90, (3, 7)), pixel_values=_normalised(images),
            output_segmentation=True,
        )  # fmt: skip
        groups = model.visual_projection(output.vision_model_output.last_hidden_state.flatten(0, 1))
        groups = torch.nn.functional.normalize(groups, dim=1)
        scale = model.logit_scale.exp()
        logits = scale * (groups @ output.text_embeds.T).view(2, GROUPS, 3)
    pixels = torch.nn.functional.interpolate(
        memberships.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear"
    )
    expected = scale * torch.einsum("bgt,bghw->bthw", logits, pixels)
    torch.testing.assert_close(expected, output.segmentation_logits, rtol=1e-4, atol=1e-4)


def test_the_image_half_and_a_single_file_serve_too(
    model: Any, folder: Path, tmp_path: Path
) -> None:
    """GroupViTVisionModel's folder, a .bin of the whole, and the path of the file itself."""
    expected = _build(folder)(_images())
    half = GroupViTVisionModel(model.config.vision_config)
    half.vision_model.load_state_dict(model.vision_model.state_dict())
    half.save_pretrained(tmp_path / "half")
    assert torch.equal(_build(tmp_path / "half")(_images()), expected)
    assert torch.equal(_build(folder / "model.safetensors")(_images()), expected)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(_build(folder)(_images()), expected)


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_the_hubs_cache_serves_without_network(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At hand once both files are cached, and built from them."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match="not on this machine"):
        _build(None, name)
    root = tmp_path / "hub" / f"models--{REPOSITORIES[name].replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        assert not weights_at_hand(name)
        (root / "snapshots/abc" / file).write_bytes((folder / file).read_bytes())
    assert weights_at_hand(name)
    assert torch.equal(_build(None, name)(_images()), _build(folder)(_images()))


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"masks": 8}, "forms 5 groups, not 8", "--masks 5"),
        ({"image_size": 128}, "images of 64 pixels, not 128", "image_size=64"),
        ({"facet": "key"}, "no facets", "Leave facet out"),
    ],
)
def test_options_it_cannot_follow_are_refused(
    options: dict[str, Any], message: str, hint: str, folder: Path
) -> None:
    """The number of groups and the image size are the model's own."""
    with pytest.raises(ConfigError, match=message) as error:
        _build(folder, **options)
    assert hint in error.value.hint


def test_wrong_files_are_refused(model: Any, folder: Path, tmp_path: Path) -> None:
    """No such folder, another kind of model, and weights that lack a tensor."""
    with pytest.raises(ArtifactError, match="no GroupViT as transformers saves it"):
        _build(tmp_path / "nowhere")
    tensors = dict(model.state_dict())
    (folder / "model.safetensors").unlink()
    del tensors["vision_model.layernorm.bias"]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"lacks the tensor .vision_model\.layernorm\.bias"):
        _build(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="does not describe a GroupViT"):
        _build(folder)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ArtifactError, match="does not describe a GroupViT"):
        _build(folder)


def test_without_transformers_the_error_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an optional dependency."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="need the transformers library") as error:
        _build(folder)
    assert "sseg[rivals]" in error.value.hint
