"""Facets of timm's ViTs, against hand-written attention and against transformers' own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.pseudomask.features import FeatureExtractor, build_features
from sseg_core.pseudomask.vit_features import VitFeatures

CPU = torch.device("cpu")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _lively(model: nn.Module) -> Any:
    """Random weights large enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and not name.endswith("bias")
            deviation = 1.5 * parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.1
            parameter.copy_(is_scale + deviation * noise)
    return model.eval()


def _build(name: str, weights: Path, size: int, **options: object) -> FeatureExtractor:
    values = {"features": name, "weights": str(weights), "image_size": size, "precision": "fp32"}
    return build_features(PseudomaskConfig.model_validate({**values, **options}), CPU)


def _timm(name: str, size: int, tmp_path: Path) -> tuple[Any, Path]:
    model = _lively(timm.create_model(name, num_classes=0, img_size=size))
    path = tmp_path / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return model, path


def _images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _normalised(images: Tensor, statistics: dict[str, Any] = IMAGENET) -> Tensor:
    mean, std = (torch.tensor(statistics[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def _last_attention(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys [B, heads, N, d] and attention [B, heads, N, N] of the last block, by hand."""
    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        for block in model.blocks[:-1]:
            x = block(x)
        attention = model.blocks[-1].attn
        heads = attention.num_heads
        x = model.blocks[-1].norm1(x)
        q, k, _ = (x @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=2)
        q, k = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k))
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / k.shape[3] ** 0.5
        return k, scores.exp() / scores.exp().sum(3, keepdim=True)


# A class token, and a register without a class token.
@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_the_facets_are_those_of_the_last_block(name: str, tmp_path: Path) -> None:
    """Tokens, keys and attention by hand, without class token and registers, in grid order."""
    model, path = _timm(name, 96, tmp_path)
    images = _images(96)
    pixels = _normalised(images, model.pretrained_cfg)
    with torch.no_grad():
        tokens = model.forward_features(pixels)
    keys, attention = _last_attention(model, pixels)
    keys, attention = keys[:, :, 1:], attention[:, :, 1:, 1:].mean(1)
    expected = {
        "token": tokens[:, 1:],
        "key": torch.cat(list(keys.unbind(1)), dim=2),
        "attention": attention / attention.sum(2, keepdim=True),
    }
    for facet, value in expected.items():
        actual = _build(f"timm:{name}", path, 96, facet=facet)(images)
        assert actual.dtype == torch.float32
        assert not actual.requires_grad
        torch.testing.assert_close(actual, value.unflatten(1, (6, 6)), rtol=1e-4, atol=1e-5)
    assert attention.amax(2).mean() > 2 / 36  # it is not the uniform one


def test_the_image_decides_its_features_to_the_last_bit(tmp_path: Path) -> None:
    """On a CPU, for every facet, whatever the batch and the threads, which stay as they are."""
    _, path = _timm("test_vit", 64, tmp_path)
    images = _images(64, 9)
    before = torch.get_num_threads()
    for facet in ("token", "key", "attention"):
        extract = _build("timm:test_vit", path, 64, facet=facet)
        together = extract(images)
        try:
            for threads in (1, 4):
                torch.set_num_threads(threads)
                assert torch.equal(extract(images), together)
                assert torch.equal(extract(images[3:4]), together[3:4])
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)


def _split_heads(weights: dict[str, Tensor], prefix: str, bias: str = "qkv") -> dict[str, Tensor]:
    """Return transformers' separate projections as the one of the official files."""
    fused = {"weight": [weights[f"{prefix}{part}_proj.weight"] for part in "qkv"]}
    zero = torch.zeros_like(weights[f"{prefix}q_proj.bias"])
    fused["bias"] = [weights.get(f"{prefix}{part}_proj.bias", zero) for part in "qkv"]
    return {f"attn.qkv.{kind}": torch.cat(parts) for kind, parts in fused.items()}


def _official(model: nn.Module, layers: str, renamed: dict[str, str]) -> dict[str, Tensor]:
    """Return the weights of a transformers model by the names of the authors' files."""
    weights = model.state_dict()
    official = {new: weights[old] for old, new in renamed.items() if not old.startswith(".")}
    blocks = {old: new for old, new in renamed.items() if old.startswith(".")}
    index = 0
    while f"{layers}.{index}.attention.q_proj.weight" in weights:
        here = f"{layers}.{index}"
        block = _split_heads(weights, f"{here}.attention.")
        for old, new in {".attention.o_proj": "attn.proj", **blocks}.items():
            for kind in ("", ".weight", ".bias"):
                if f"{here}{old}{kind}" in weights:
                    block[f"{new}{kind}"] = weights[f"{here}{old}{kind}"]
        official.update({f"blocks.{index}.{key}": tensor for key, tensor in block.items()})
        index += 1
    return official


@pytest.mark.slow
def test_dino_vits8_is_transformers_vit_with_the_same_weights(tmp_path: Path) -> None:
    """Official file names; equal at 224, and at 256 up to how positions are interpolated."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, patch_size=8,
        layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    model = _lively(ViTModel(config, add_pooling_layer=False))
    # Positions that vary smoothly, as learned ones do.
    waves = torch.linspace(0, 3, 28)
    place = torch.stack(torch.meshgrid(waves.sin(), (2 * waves).cos(), indexing="ij"), 2)
    model.embeddings.position_embeddings.data[:, 1:] = (
        0.3 * place.flatten(0, 1) @ torch.randn(2, 384, generator=torch.Generator().manual_seed(2))
    )
    official = _official(
        model, "layers",
        {
            "embeddings.cls_token": "cls_token",
            "embeddings.position_embeddings": "pos_embed",
            "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
            "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
            "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
            ".layernorm_before": "norm1", ".layernorm_after": "norm2",
            ".mlp.fc1": "mlp.fc1", ".mlp.fc2": "mlp.fc2",
        },
    )  # fmt: skip
    torch.save(official, tmp_path / "dino.pth")
    images = _images(224, 1)
    with torch.no_grad():
        output = model(_normalised(images), output_attentions=True)
    expected = output.last_hidden_state[:, 1:].unflatten(1, (28, 28))
    actual = _build("dino_vits8", tmp_path / "dino.pth", 224)(images)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    shares = output.attentions[-1][:, :, 1:, 1:].mean(1)
    actual = _build("dino_vits8", tmp_path / "dino.pth", 224, facet="attention")(images)
    torch.testing.assert_close(actual.flatten(1, 2), shares / shares.sum(2, keepdim=True))
    images = _images(256, 1)
    with torch.no_grad():
        output = model(_normalised(images), interpolate_pos_encoding=True)
    expected = output.last_hidden_state[:, 1:].unflatten(1, (32, 32))
    actual = _build("dino_vits8", tmp_path / "dino.pth", 256)(images)
    similarity = torch.nn.functional.cosine_similarity(actual, expected, dim=3)
    assert similarity.min() > 0.99
    assert similarity.mean() > 0.999


@pytest.mark.slow
def test_dinov2_with_registers_is_transformers_own(tmp_path: Path) -> None:
    """The authors' file at 518 pixels, used at 112: positions resampled, registers left out."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518
    )
    model = _lively(Dinov2WithRegistersModel(config))
    official = _official(
        model, "encoder.layer",
        {
            "embeddings.cls_token": "cls_token",
            "embeddings.mask_token": "mask_token",
            "embeddings.register_tokens": "register_tokens",
            "embeddings.position_embeddings": "pos_embed",
            "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
            "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
            "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
            ".norm1": "norm1", ".norm2": "norm2", ".mlp.fc1": "mlp.fc1", ".mlp.fc2": "mlp.fc2",
            ".layer_scale1.lambda1": "ls1.gamma", ".layer_scale2.lambda1": "ls2.gamma",
        },
    )  # fmt: skip
    torch.save(official, tmp_path / "dinov2.pth")
    images = _images(112)
    with torch.no_grad():
        hidden = model(_normalised(images)).last_hidden_state
    actual = _build("dinov2_vits14_reg", tmp_path / "dinov2.pth", 112)(images)
    expected = hidden[:, 5:].unflatten(1, (8, 8))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_dinov3_is_transformers_own(tmp_path: Path) -> None:
    """Rotary positions and registers: tokens, attention, and keys before they are turned."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(num_register_tokens=4, attn_implementation="eager")
    model = _lively(DINOv3ViTModel(config))
    official = _official(
        model, "model.layer",
        {
            "embeddings.cls_token": "cls_token",
            "embeddings.mask_token": "mask_token",
            "embeddings.register_tokens": "storage_tokens",
            "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
            "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
            "norm.weight": "norm.weight", "norm.bias": "norm.bias",
            ".norm1": "norm1", ".norm2": "norm2",
            ".mlp.up_proj": "mlp.fc1", ".mlp.down_proj": "mlp.fc2",
            ".layer_scale1.lambda1": "ls1.gamma", ".layer_scale2.lambda1": "ls2.gamma",
        },
    )  # fmt: skip
    # What else the authors' file holds, and no model needs.
    official["rope_embed.periods"] = torch.ones(16)
    official.update({f"blocks.{i}.attn.qkv.bias_mask": torch.ones(1152) for i in range(12)})
    torch.save(official, tmp_path / "dinov3.pth")
    images = _images(96)
    keys = []
    hook = model.model.layer[-1].attention.k_proj.register_forward_hook(
        lambda _module, _input, output: keys.append(output)
    )
    with torch.no_grad():
        output = model(_normalised(images), output_attentions=True)
    hook.remove()
    shares = output.attentions[-1][:, :, 5:, 5:].mean(1)
    expected = {
        "token": output.last_hidden_state[:, 5:],
        "key": keys[0][:, 5:],
        "attention": shares / shares.sum(2, keepdim=True),
    }
    for facet, value in expected.items():
        actual = _build("dinov3_vits16", tmp_path / "dinov3.pth", 96, facet=facet)(images)
        torch.testing.assert_close(actual.flatten(1, 2), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("facet", ["token", "key", "attention"])
@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224"])
def test_bf16_is_close_to_fp32(name: str, facet: str, tmp_path: Path) -> None:
    """The same features within a few percent, given back in fp32; weights take half the room."""
    _, path = _timm(name, 112, tmp_path)
    images = _images(112)
    exact = _build(f"timm:{name}", path, 112, facet=facet)(images)
    extract = _build(f"timm:{name}", path, 112, facet=facet, precision="bf16")
    assert isinstance(extract, VitFeatures)
    assert {p.dtype for p in extract.parameters()} == {torch.bfloat16}
    rounded = extract(images)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).norm() / (exact - exact.mean((1, 2), keepdim=True)).norm()
    assert 0 < error < 0.1  # random weights amplify rounding more than learned ones


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_asks_the_processor(
    fast: bool, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 where the processor multiplies in it, fp32 elsewhere."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    _, path = _timm("test_vit", 64, tmp_path)
    extract = _build("timm:test_vit", path, 64, precision="auto")
    assert isinstance(extract, VitFeatures)
    assert {p.dtype for p in extract.parameters()} == {expected}


def test_an_image_size_that_does_not_fit_the_patches_is_refused(tmp_path: Path) -> None:
    """At once, and the hint names the next smaller size that fits."""
    _, path = _timm("test_vit", 64, tmp_path)
    with pytest.raises(ConfigError, match="patches of 16") as error:
        _build("timm:test_vit", path, 70)
    assert "image_size=64" in error.value.hint


def test_a_facet_that_a_model_does_not_have_is_refused(tmp_path: Path) -> None:
    """A parallel block has no attention of its own; its tokens serve as any others."""
    _, path = _timm("vit_pwee_patch16_reg1_gap_256", 64, tmp_path)
    with pytest.raises(ConfigError, match="has no attention features"):
        _build("timm:vit_pwee_patch16_reg1_gap_256", path, 64, facet="attention")
    extract = _build("timm:vit_pwee_patch16_reg1_gap_256", path, 64)
    assert extract(_images(64)).shape == (2, 4, 4, 256)
