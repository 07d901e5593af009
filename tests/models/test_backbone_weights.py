"""Warm starts: local weight files into feature levels, frozen bodies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sseg_core.config import BackboneConfig
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.models.backbone import Backbone

SWIN = BackboneConfig(
    name="swin_tiny_patch4_window7_224",
    options={"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
)
RESNET = BackboneConfig(
    name="resnet10t", out_indices=(1, 2, 3), options={"channels": [8, 8, 16, 16], "stem_width": 8}
)
VIT = BackboneConfig(name="test_vit", out_indices=(0, 2), options={"img_size": 64})
CONVNEXT = BackboneConfig(name="test_convnext", out_indices=(0, 1, 2))
ALL = {"swin": SWIN, "resnet": RESNET, "vit": VIT, "convnext": CONVNEXT}


def whole_model(config: BackboneConfig, **options: Any) -> Any:
    """Return a model as timm trains it, with 10 classes and weights that are not the defaults."""
    model = timm.create_model(config.name, num_classes=10, **{**config.options, **options})
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.01)
    return model.eval()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def warm(config: BackboneConfig, path: Path, **changes: Any) -> Backbone:
    return Backbone(config.model_copy(update={"weights": str(path), **changes})).eval()


def expected_levels(model: Any, config: BackboneConfig, images: Tensor) -> list[Tensor]:
    """The whole model's own intermediate features, without the backbone's code."""
    indices = config.out_indices and list(config.out_indices)
    levels: list[Tensor] = model.forward_intermediates(
        images, indices=indices, intermediates_only=True
    )
    return levels


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_the_whole_model_gives_its_features(name: str, tmp_path: Path) -> None:
    """The levels are those of the model that wrote the file; its classifier is left out."""
    config = ALL[name]
    model = whole_model(config)
    save_file(tensors_of(model), tmp_path / "whole.safetensors")
    backbone = warm(config, tmp_path / "whole.safetensors")
    side = 64 if name == "vit" else 224
    images = torch.rand(2, 3, side, side)
    levels = backbone.body(images)
    if backbone.channels_come_last:
        levels = [level.permute(0, 3, 1, 2) for level in levels]
    for level, expected in zip(levels, expected_levels(model, config, images), strict=True):
        torch.testing.assert_close(level, expected)


FORMATS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda tensors: tensors,
    "headless": lambda tensors: {k: t for k, t in tensors.items() if "head" not in k},
    "without what the levels do not use": lambda tensors: {
        k: t for k, t in tensors.items() if not k.startswith(("head", "norm."))
    },
    "distributed": lambda tensors: {f"module.{k}": t for k, t in tensors.items()},
    "compiled": lambda tensors: {f"_orig_mod.{k}": t for k, t in tensors.items()},
    "dino's": lambda tensors: {
        "student": {f"module.backbone.{k}": t + 1 for k, t in tensors.items()},
        "teacher": {f"backbone.{k}": t for k, t in tensors.items()} | {"head.mlp": torch.ones(1)},
        "epoch": 3,
    },
    "simmim's": lambda tensors: {
        "model": {f"encoder.{k}": t for k, t in tensors.items()}
        | {"encoder.mask_token": torch.ones(1, 1, 8), "decoder.0.weight": torch.ones(1)}
    },
    "moco's": lambda tensors: {
        "state_dict": {f"module.encoder_q.{k}": t for k, t in tensors.items()}
        | {"module.queue": torch.ones(2, 2)}
    },
    "lightning's": lambda tensors: {
        "state_dict": {f"backbone.{k}": t for k, t in tensors.items()}
        | {"projector.weight": torch.ones(1)}
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_wraps_the_weights_is_left_out(name: str, tmp_path: Path) -> None:
    """Of each format the same weights arrive, of a training state the teacher's or encoder's."""
    tensors = tensors_of(whole_model(SWIN))
    torch.save(FORMATS[name](tensors), tmp_path / "weights.pth")
    body = warm(SWIN, tmp_path / "weights.pth").body.state_dict()
    assert torch.equal(
        body["layers_2.blocks.1.mlp.fc1.weight"], tensors["layers.2.blocks.1.mlp.fc1.weight"]
    )
    assert body.keys() == {
        name.replace("layers.", "layers_")
        for name in tensors
        if not name.startswith(("head.", "norm."))
    }


def test_swins_own_files_fit(tmp_path: Path) -> None:
    """Files as Swin's authors publish them place the downsampling a stage earlier."""
    tensors = tensors_of(whole_model(SWIN))
    original = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if "downsample" in name:
            parts[1] = str(int(parts[1]) - 1)
        original[".".join(parts).replace("head.fc", "head")] = tensor
    torch.save({"model": original}, tmp_path / "swin.pth")
    body = warm(SWIN, tmp_path / "swin.pth").body.state_dict()
    place = "layers_1.downsample.reduction.weight"
    assert torch.equal(body[place], tensors["layers.1.downsample.reduction.weight"])


def test_position_tables_fit_another_image_size(tmp_path: Path) -> None:
    """A ViT of 160 pixels starts one of 64: timm resamples, a constant table stays constant."""
    model = whole_model(VIT, img_size=160)
    model.pos_embed.data[:] = torch.arange(64.0)
    save_file(tensors_of(model), tmp_path / "vit.safetensors")
    table = warm(VIT, tmp_path / "vit.safetensors").body.model.pos_embed
    assert table.shape == (1, 1 + 4 * 4, 64)
    torch.testing.assert_close(table.data, torch.arange(64.0).expand_as(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.2.blocks.1.norm1.weight"), "lacks the tensor 'layers.2.blocks.1"),
        (lambda t: t.update(extra=torch.ones(1)), "holds the tensor 'extra'"),
        (
            lambda t: t.update({"layers.0.blocks.0.mlp.fc1.weight": torch.ones(3, 3)}),
            r"'layers.0.blocks.0.mlp.fc1.weight' has shape \[3, 3\]",
        ),
        (
            lambda t: t.update({"patch_embed.proj.weight": torch.ones(8, 3, 8, 8)}),
            r"has shape \[8, 3, 8, 8\].*needs \[8, 3, 4, 4\]",
        ),
    ],
    ids=["missing", "left over", "shape", "patches"],
)
def test_a_file_of_another_model_is_refused_by_its_first_wrong_tensor(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    """Nothing is loaded in part, and the sentence names the tensor as the file does."""
    tensors = tensors_of(whole_model(SWIN))
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ArtifactError, match=message) as caught:
        warm(SWIN, tmp_path / "wrong.safetensors")
    assert "\n" not in caught.value.message


def test_two_starts_are_refused(tmp_path: Path) -> None:
    """`pretrained` and `weights` exclude each other."""
    with pytest.raises(ConfigError, match=r"backbone.pretrained and backbone.weights"):
        warm(RESNET, tmp_path / "any.pth", pretrained=True)


def test_a_warm_start_moves_no_other_weight(tmp_path: Path) -> None:
    """What is drawn at random after the backbone is the same with and without a file."""
    save_file(tensors_of(whole_model(RESNET)), tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    Backbone(RESNET)
    expected = torch.rand(3)
    torch.manual_seed(0)
    warm(RESNET, tmp_path / "weights.safetensors")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("config", [RESNET, SWIN], ids=["resnet", "swin"])
def test_a_frozen_body_stays_as_it_starts(config: BackboneConfig) -> None:
    """Training changes neither its weights nor its batch statistics; all others learn."""
    backbone = Backbone(config.model_copy(update={"frozen": True}))
    head = nn.Conv2d(backbone.channels[-1], 1, 1)
    model = nn.Sequential(backbone, head).train()
    before = {name: tensor.clone() for name, tensor in backbone.body.state_dict().items()}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        levels = backbone(torch.rand(2, 3, 64, 64))
        (head(levels[-1]).square().mean() + sum(level.mean() for level in levels)).backward()
        optimizer.step()
    assert len(learning) == 2 + 2 * len(backbone.norms)
    assert all(p.grad is not None for p in learning)
    assert not any(p.requires_grad for p in backbone.body.parameters())
    for name, tensor in backbone.body.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert backbone.training
    assert not backbone.body.training


def test_a_frozen_body_keeps_no_activations() -> None:
    """Nothing of the body is saved for a backward pass."""
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    frozen = Backbone(RESNET.model_copy(update={"frozen": True}))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        levels = frozen(torch.rand(1, 3, 64, 64))
    assert not saved
    assert not any(level.requires_grad for level in levels)
