"""Weights: from the hub or a file into the cache, checked, and found there without network."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

from sseg_core.data.fetch.hub_files import WEIGHT_NAMES
from sseg_core.data.sources import WEIGHTS, WeightSource
from sseg_core.errors import ArtifactError, DataError
from sseg_core.evaluation.rivals.groupvit import open_groupvit
from sseg_core.evaluation.rivals.open_clip_model import ClipName, open_clip_model
from sseg_core.inference.view import View
from sseg_core.pseudomask.vit_weights import cached_vit_weights
from sseg_core.stages import download_weights

VIT = WeightSource(
    "tiny", "a tiny ViT", "apache-2.0", "https://example.org", "timm/test_vit.r160_in1k",
    (WEIGHT_NAMES,), None, model="test_vit.r160_in1k",
)  # fmt: skip
CLIP = WeightSource(
    "clip", "a small CLIP", "mit", "https://example.org", "timm/vit_base_patch16_clip_224.openai",
    (("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),), None,
    model="ViT-B-16:openai",
)  # fmt: skip
GROUPVIT = WeightSource(
    "groupvit", "a small GroupViT", "nvidia", "https://example.org", "nvidia/groupvit-gcc-redcaps",
    (WEIGHT_NAMES, ("config.json",)), None,
)  # fmt: skip
CPU = torch.device("cpu")

Reach = Callable[[str | None], Path]


def vit_tensors(seed: int = 1, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = timm.create_model("test_vit", **options)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


_LOAD = """
import sys, timm, torch
from sseg_core.pseudomask.vit_weights import cached_vit_weights
assert cached_vit_weights("test_vit")
options = {"num_classes": 0} if sys.argv[2] == "headless" else {}
model = timm.create_model("test_vit", pretrained=True, **options)
torch.save(model.state_dict(), sys.argv[1])
"""


def loaded_offline(cache: Path, out: Path, kind: str = "whole") -> dict[str, Tensor]:
    """Return the weights that timm finds in another process without network."""
    environment = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin"}
    subprocess.run(
        [sys.executable, "-c", _LOAD, str(out), kind], env=environment, check=True, timeout=120
    )
    loaded: dict[str, Tensor] = torch.load(out, weights_only=True)
    return loaded


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
def test_fetched_weights_are_found_without_network(
    hub: Any, reach_hub: Reach, tmp_path: Path
) -> None:
    """By this program and by timm; a second run fetches nothing."""
    content = save(vit_tensors())
    digest = hashlib.sha256(content).hexdigest()
    hub.files[VIT.repository] = {"model.safetensors": content}
    source = replace(VIT, sha256=digest, bytes=len(content))
    assert download_weights.plan(source).download_bytes == len(content)
    made = download_weights.run(source)
    assert (made.origin, made.sha256, made.bytes) == ("hub", digest, len(content))
    hub.requests.clear()
    cache = reach_hub(None)
    again = download_weights.run(source)
    assert (again.origin, again.files, hub.requests) == ("cache", made.files, [])
    assert download_weights.plan(source).download_bytes is None
    assert cached_vit_weights("test_vit") == made.files[0]
    assert_same(loaded_offline(cache, tmp_path / "out.pth"), vit_tensors())


def test_a_fetch_goes_on_at_its_byte(hub: Any) -> None:
    """After drops, and after a run that failed."""
    content = save(vit_tensors())
    hub.files[VIT.repository] = {"pytorch_model.bin": content}
    hub.drops["pytorch_model.bin"] = [200_000, 1000]
    assert download_weights.run(VIT).sha256 == hashlib.sha256(content).hexdigest()
    assert hub.fetched("pytorch_model.bin")[0] is None
    assert all(hub.fetched("pytorch_model.bin")[1:])


def test_wrong_bytes_never_reach_the_cache(hub: Any) -> None:
    """Neither those that break on the way nor others than the table states."""
    hub.files[VIT.repository] = {"model.safetensors": save(vit_tensors())}
    hub.wrong["model.safetensors"] = 2
    with pytest.raises(DataError, match="other bytes than the hub states"):
        download_weights.run(VIT)
    with pytest.raises(ArtifactError, match="other weights than those that were published"):
        download_weights.run(replace(VIT, sha256="0" * 64))
    assert cached_vit_weights("test_vit") is None


def test_what_cannot_be_fetched_can_be_brought(hub: Any, reach_hub: Reach) -> None:
    """Which the error says, whatever keeps it from being fetched."""
    hub.files["timm/closed"] = {}
    hub.gated.add("timm/closed")
    with pytest.raises(ArtifactError, match="accepted its terms") as caught:
        download_weights.run(replace(VIT, repository="timm/closed"))
    assert "sseg download tiny:FILE" in caught.value.hint
    with pytest.raises(ArtifactError, match="no model timm/none"):
        download_weights.run(replace(VIT, repository="timm/none"))
    hub.files[VIT.repository] = {"README.md": b"#"}
    with pytest.raises(ArtifactError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        download_weights.run(VIT)
    reach_hub(None)
    with pytest.raises(ArtifactError, match="HF_HUB_OFFLINE") as caught:
        download_weights.run(VIT)
    assert "sseg download tiny:FILE" in caught.value.hint


@pytest.mark.slow
def test_a_brought_training_state_becomes_what_the_hub_has(
    reach_hub: Reach, tmp_path: Path
) -> None:
    """The file that the authors of DINO publish: timm finds the teacher, without network."""
    cache = reach_hub(None)
    tensors = vit_tensors(num_classes=0)
    state = {
        "student": {f"module.backbone.{name}": t + 1 for name, t in tensors.items()},
        "teacher": {f"backbone.{name}": t for name, t in tensors.items()},
        "args": argparse.Namespace(arch="vit_small"),
    }
    torch.save(state, tmp_path / "full.pth")
    made = download_weights.run(VIT, tmp_path / "full.pth")
    assert made.origin == "file"
    assert_same(load_file(made.files[0]), tensors)
    assert_same(loaded_offline(cache, tmp_path / "out.pth", "headless"), tensors)


def test_a_brought_classifier_keeps_its_head(reach_hub: Reach, tmp_path: Path) -> None:
    reach_hub(None)
    save_file(vit_tensors(), tmp_path / "mine.safetensors")
    made = download_weights.run(VIT, tmp_path / "mine.safetensors")
    assert_same(load_file(made.files[0]), vit_tensors())
    save_file(vit_tensors(seed=2), tmp_path / "mine.safetensors")
    newer = download_weights.run(VIT, tmp_path / "mine.safetensors")
    assert newer.files == made.files
    assert_same(load_file(newer.files[0]), vit_tensors(seed=2))


def test_a_brought_file_of_another_model_is_refused(reach_hub: Reach, tmp_path: Path) -> None:
    """And nothing of it is kept; neither are junk and files that are not there."""
    cache = reach_hub(None)
    path = tmp_path / "other.safetensors"
    save_file(vit_tensors(embed_dim=96), path)
    with pytest.raises(ArtifactError, match="has shape"):
        download_weights.run(VIT, path)
    path.write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not a readable weight file"):
        download_weights.run(VIT, path)
    with pytest.raises(ArtifactError, match="There is no weight file"):
        download_weights.run(VIT, tmp_path / "absent.pth")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_brought_file_with_the_published_digest_is_kept_as_it_is(
    reach_hub: Reach, tmp_path: Path
) -> None:
    """Beside what the cache holds of the same repository already."""
    cache = reach_hub(None)
    commit = "fedcba9876543210fedcba9876543210fedcba98"
    root = cache / "models--timm--test_vit.r160_in1k"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "snapshots" / commit / "config.json").write_text("{}")
    (root / "refs").mkdir()
    (root / "refs/main").write_text(commit)
    (root / ".no_exist" / commit).mkdir(parents=True)
    (root / ".no_exist" / commit / "model.safetensors").touch()
    content = save(vit_tensors())
    (tmp_path / "w").write_bytes(content)
    source = replace(VIT, sha256=hashlib.sha256(content).hexdigest())
    made = download_weights.run(source, tmp_path / "w")
    assert made.files[0].read_bytes() == content
    assert made.files[0].parent == root / "snapshots" / commit
    assert cached_vit_weights("test_vit") == made.files[0]


def test_a_brought_clip_is_found_by_the_rivals(
    reach_hub: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach_hub(None)
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1
        },
    }  # fmt: skip
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(config))
    model = open_clip.CLIP(**config)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    made = download_weights.run(CLIP, tmp_path / "clip.pt")
    assert made.files[0].name == "open_clip_model.safetensors"
    found = open_clip_model(ClipName.parse("ViT-B-16"), None, CPU)
    ids = torch.randint(0, 49408, (2, 77))
    expected = open_clip_model(ClipName.parse("ViT-B-16"), str(tmp_path / "clip.pt"), CPU)
    assert torch.equal(found.encode_text(ids), expected.encode_text(ids))
    torch.save({"visual.proj": torch.ones(2)}, tmp_path / "clip.pt")
    with pytest.raises(ArtifactError, match="lacks the tensor"):
        download_weights.run(CLIP, tmp_path / "clip.pt")


def test_a_brought_groupvit_is_a_folder(reach_hub: Reach, tmp_path: Path) -> None:
    """Its configuration is kept beside it, where the rival looks for it."""
    reach_hub(None)
    vision = {
        "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "depths": [1, 1, 1], "num_hidden_layers": 3, "image_size": 32, "patch_size": 4,
        "num_group_tokens": [9, 6, 0], "num_output_groups": [9, 6, 0],
    }  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32}  # fmt: skip
    model = GroupViTModel(
        GroupViTConfig(
            vision_config=vision,
            text_config=text,
            projection_dim=16,
            projection_intermediate_dim=32,
        )
    )
    model.save_pretrained(tmp_path / "mine")
    made = download_weights.run(GROUPVIT, tmp_path / "mine")
    assert [path.name for path in made.files] == ["model.safetensors", "config.json"]
    assert open_groupvit("", None, View(), CPU).reference == "groupvit"
    (tmp_path / "mine/config.json").unlink()
    with pytest.raises(ArtifactError, match=r"no GroupViT|has no config.json"):
        download_weights.run(GROUPVIT, tmp_path / "mine")


def test_the_table_names_weights_first_and_as_safetensors() -> None:
    """That is what a brought file becomes."""
    for source in WEIGHTS:
        assert any(name.endswith(".safetensors") for name in source.files[0]), source.name
