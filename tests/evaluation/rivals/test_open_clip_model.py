"""CLIP's tokens, against open_clip's forward, transformers' CLIP and the formula of attention."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.rivals.open_clip_model import (
    ClipName,
    OpenClip,
    clip_of,
    open_clip_model,
    positions_for,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def reference(clip_config: dict[str, Any], clip_file: Path) -> Any:
    """open_clip's own model with the weights of the file."""
    model = open_clip.CLIP(**clip_config).eval()
    model.load_state_dict(load_file(clip_file))
    return model


@pytest.fixture(scope="module")
def clip(clip_config: dict[str, Any], clip_file: Path) -> OpenClip:
    """Ours of the same file."""
    return clip_of(clip_config, clip_file, MEAN, STD)


def _images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def _transformers_clip(model: Any) -> CLIPModel:
    """Return transformers' CLIP with the weights of open_clip's small one."""
    config = CLIPConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "hidden_act": "quick_gelu", "vocab_size": 49408,
            "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407,
        },
        projection_dim=24,
    )  # fmt: skip
    own = model.state_dict()
    renamed = {
        "logit_scale": own["logit_scale"],
        "visual_projection.weight": own["visual.proj"].T,
        "text_projection.weight": own["text_projection"].T,
        "vision_model.embeddings.class_embedding": own["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": own["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": own["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": own["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    blocks = {"visual.transformer": "vision_model.encoder", "transformer": "text_model.encoder"}
    for old, new in norms.items():
        renamed |= {f"{new}.{part}": own[f"{old}.{part}"] for part in ("weight", "bias")}
    for old, new in blocks.items():
        for i in range(3 if old.startswith("visual") else 2):
            source, target = f"{old}.resblocks.{i}", f"{new}.layers.{i}"
            for part in ("weight", "bias"):
                packed = own[f"{source}.attn.in_proj_{part}"].chunk(3)
                for name, tensor in zip("qkv", packed, strict=True):
                    renamed[f"{target}.self_attn.{name}_proj.{part}"] = tensor
                for a, b in {
                    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1",
                    "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
                }.items():  # fmt: skip
                    renamed[f"{target}.{b}.{part}"] = own[f"{source}.{a}.{part}"]
    twin = CLIPModel(config).eval()
    twin.load_state_dict(renamed)
    return twin


@torch.no_grad()
def test_whole_images_and_texts_get_open_clips_features(clip: OpenClip, reference: Any) -> None:
    """At the size that CLIP learned, `encode_image` is open_clip's, and so is `encode_text`."""
    images = _images(32, 32)
    torch.testing.assert_close(clip.encode_image(images), reference.encode_image(images))
    ids = open_clip.tokenize(["a photo of a cat", "sky"])
    expected = reference.encode_text(ids)
    torch.testing.assert_close(clip.encode_text(ids), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.encode_text(ids[:, :8]), expected, rtol=1e-4, atol=1e-5)
    assert clip.logit_scale == pytest.approx(1 / 0.07)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (40, 24)])
def test_the_output_tokens_are_those_of_transformers(
    size: tuple[int, int], clip: OpenClip, reference: Any
) -> None:
    """Through the last norm and the projection, at any size whose sides are whole patches."""
    twin = _transformers_clip(reference)
    images = _images(*size)
    output = twin.vision_model(images, interpolate_pos_encoding=True).last_hidden_state
    expected = twin.visual_projection(twin.vision_model.post_layernorm(output))
    tokens = clip.tokens(images, "output")
    assert tokens.shape == (2, size[0] // 8, size[1] // 8, 24)
    torch.testing.assert_close(tokens.flatten(1, 2), expected[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.encode_image(images), expected[:, 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_value_token_attends_to_itself_alone(clip: OpenClip, reference: Any) -> None:
    """`value` and `maskclip` are what the last block gives with the identity as attention."""
    images = _images(40, 32)
    visual = reference.visual
    seen: list[Tensor] = []
    last = visual.transformer.resblocks[-1]
    tokens_in = clip._before_last_block(images)
    x = last.ln_1(tokens_in)
    only_itself = ~torch.eye(x.shape[1], dtype=torch.bool)  # True: may not be attended to
    attended, _ = last.attn(x, x, x, attn_mask=only_itself, need_weights=False)
    seen.append(attended)
    block = tokens_in + attended
    seen.append(block + last.mlp(last.ln_2(block)))
    for kind, output in zip(("value", "maskclip"), seen, strict=True):
        expected = (visual.ln_post(output) @ visual.proj)[:, 1:].reshape(2, 5, 4, 24)
        torch.testing.assert_close(clip.tokens(images, kind), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_values_follow_the_formula_of_each_head(clip: OpenClip, reference: Any) -> None:
    """`value` is W_o concat_h(W_v,h x + b_v,h) + b_o of the normalised token, head by head."""
    images = _images(32, 32)
    x = reference.visual.transformer.resblocks[-1].ln_1(clip._before_last_block(images))
    own = reference.state_dict()
    prefix = "visual.transformer.resblocks.2.attn."
    heads = []
    for h in range(4):
        rows = slice(64 + 8 * h, 72 + 8 * h)  # behind 32 rows of q and 32 of k
        weight = own[f"{prefix}in_proj_weight"][rows]
        heads.append(torch.einsum("bnd,od->bno", x, weight) + own[f"{prefix}in_proj_bias"][rows])
    values = torch.cat(heads, dim=2) @ own[f"{prefix}out_proj.weight"].T
    values += own[f"{prefix}out_proj.bias"]
    normed = F.layer_norm(values, (32,), own["visual.ln_post.weight"], own["visual.ln_post.bias"])
    expected = (normed @ own["visual.proj"])[:, 1:].reshape(2, 4, 4, 24)
    torch.testing.assert_close(clip.tokens(images, "value"), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["value", "maskclip", "output"])
def test_odd_sizes_get_a_border_of_mean_colour(kind: Any, clip: OpenClip) -> None:
    """The same as with the border given; nothing that is shown is left out."""
    images = _images(37, 50)
    bordered = F.pad(images, (0, 6, 0, 3))
    torch.testing.assert_close(clip.tokens(images, kind), clip.tokens(bordered, kind))
    grey = torch.tensor(MEAN).view(3, 1, 1).expand(3, 4, 4)
    assert torch.equal(clip.normalise(grey), torch.zeros(3, 4, 4))


def test_positions_of_the_own_grid_are_untouched() -> None:
    """And of another grid each is near those around it, the class token's as it was."""
    positions = torch.arange(17.0)[:, None].expand(17, 3)
    assert positions_for(positions, (4, 4)) is positions
    finer = positions_for(positions, (8, 12))
    assert finer.shape == (97, 3)
    assert torch.equal(finer[0], positions[0])
    assert finer[1:].diff(dim=0)[:11].min() >= -0.2  # along the first row they grow


def test_names_are_checked_before_anything_is_loaded() -> None:
    """Near misses are corrected; other builds of CLIP and unknown weights are refused."""
    assert str(ClipName.parse("ViT-B-16")) == "ViT-B-16"
    assert ClipName.parse("ViT-L-14").weights == "openai"
    assert str(ClipName.parse("ViT-B-32:laion2b_s34b_b79k")) == "ViT-B-32:laion2b_s34b_b79k"
    with pytest.raises(ConfigError, match="ViT-B16") as error:
        ClipName.parse("ViT-B16")
    assert "'ViT-B-16'" in error.value.hint
    for other in ("RN50", "coca_ViT-B-32", "ViT-B-16-SigLIP", "ViT-S-16", ""):
        with pytest.raises(ConfigError, match="is no CLIP of open_clip"):
            ClipName.parse(other)
    with pytest.raises(ConfigError, match="knows no weights 'opena' of ViT-B-16") as error:
        ClipName.parse("ViT-B-16:opena")
    assert "'openai'" in error.value.hint
    with pytest.raises(ConfigError, match="no openai weights of ViT-H-14") as error:
        ClipName.parse("ViT-H-14")
    assert "ViT-H-14:laion2b" in error.value.hint


def test_the_weights_say_how_images_are_normalised_and_which_activation(
    clip_config: dict[str, Any], clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's of ViT-B-16 learned with QuickGELU, LAION's with GELU; means differ too."""
    plain = {key: value for key, value in clip_config.items() if key != "quick_gelu"}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(plain))
    images = _images(32, 32)
    cpu = torch.device("cpu")
    results = {}
    for tag in ("openai", "laion2b_s32b_b82k"):
        model = open_clip_model(ClipName("ViT-L-14", tag), str(clip_file), cpu)
        results[tag] = model.encode_image(images)
        assert model.mean[0].item() == pytest.approx(0.4815 if tag == "openai" else 0.5, abs=1e-4)
    assert not torch.allclose(*results.values(), atol=1e-4)
    quick = clip_of(clip_config, clip_file, MEAN, STD)
    torch.testing.assert_close(results["openai"], quick.encode_image(images))


def test_weights_that_cannot_be_had_name_the_repository_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and not cached: what to run with a connection, or which option takes a file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=r"timm/vit_base_patch16_clip_224\.openai") as error:
        open_clip_model(ClipName.parse("ViT-B-16"), None, torch.device("cpu"))
    assert "hf download timm/vit_base_patch16_clip_224.openai" in error.value.hint
    assert "--set weights=FILE" in error.value.hint


def test_cached_weights_are_found_without_network(
    clip_config: dict[str, Any], clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the hub's cache, under open_clip's name for the file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(clip_config))
    root = tmp_path / "hub/models--timm--vit_base_patch16_clip_224.openai"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    (root / "snapshots/abc/open_clip_model.safetensors").write_bytes(clip_file.read_bytes())
    model = open_clip_model(ClipName("ViT-B-16", "openai"), None, torch.device("cpu"))
    assert model.image_size == 32


def test_wrong_weight_files_are_refused(
    clip_config: dict[str, Any], clip_file: Path, tmp_path: Path
) -> None:
    """The first tensor that does not fit is named; sizes of OpenAI's own files are passed over."""
    tensors = load_file(clip_file)
    save_file({**tensors, "context_length": torch.tensor(77)}, tmp_path / "openai.safetensors")
    clip_of(clip_config, tmp_path / "openai.safetensors", MEAN, STD)
    del tensors["visual.ln_post.bias"]
    save_file(tensors, tmp_path / "lacks.safetensors")
    with pytest.raises(ArtifactError, match=r"lacks the tensor .visual\.ln_post\.bias"):
        clip_of(clip_config, tmp_path / "lacks.safetensors", MEAN, STD)
    with pytest.raises(ArtifactError, match="no weight file"):
        clip_of(clip_config, tmp_path / "nowhere.pt", MEAN, STD)


def test_without_open_clip_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the library only reads its vocabulary."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match="need the open_clip library") as error:
        ClipName.parse("ViT-B-16")
    assert "pip install open_clip_torch" in error.value.hint
