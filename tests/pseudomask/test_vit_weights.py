"""Weight files of ViTs: formats of their authors, wrong files, the hub and its cache."""

from __future__ import annotations

import argparse
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from sseg_core.config import PseudomaskConfig
from sseg_core.data.fetch.hub_files import WEIGHT_NAMES, fetch_file
from sseg_core.errors import ArtifactError
from sseg_core.models.backbone_weights import load_timm_weights
from sseg_core.pseudomask.features import build_features, weights_at_hand

TINY = "test_vit"
REPOSITORY = "timm/test_vit.r160_in1k"  # where timm has the weights of it


def _model(name: str = TINY, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, **{"num_classes": 0, **options}).eval()


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _features(images: Tensor, weights: Path | None = None) -> Tensor:
    config = PseudomaskConfig(
        features=f"timm:{TINY}", weights=weights and str(weights), image_size=64, precision="fp32"
    )
    return build_features(config, torch.device("cpu"))(images)


def _dino_checkpoint(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a training state as DINO's code saves it; the student differs from the teacher."""
    heads = {"head.mlp.0.weight": torch.ones(3, 3)}
    student = _prefixed("backbone.", {name: tensor + 1 for name, tensor in tensors.items()})
    return {
        "student": _prefixed("module.", {**student, **heads}),
        "teacher": {**_prefixed("backbone.", tensors), **heads},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=8),
        "dino_loss": {"center": torch.zeros(1, 3)},
    }


FORMATS = {
    "plain": lambda tensors: tensors,
    "dino's full checkpoint": _dino_checkpoint,
    "distributed": lambda tensors: {"teacher": _prefixed("module.backbone.", tensors)},
    "deit's": lambda tensors: {"model": {**tensors, "head.weight": torch.ones(2, 64)}},
    "lightning's": lambda tensors: {"state_dict": _prefixed("backbone.", tensors)},
}


@pytest.mark.parametrize("name", FORMATS)
def test_published_formats_load_to_the_same_model(name: str, tmp_path: Path) -> None:
    """Wrappers and heads are left out, the teacher is taken, every weight arrives."""
    source = _model()
    torch.save(FORMATS[name](_tensors(source)), tmp_path / "weights.pth")
    target = _model(seed=1)
    load_timm_weights(target, tmp_path / "weights.pth")
    for key, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"])
def test_a_classifier_file_is_used_without_its_heads(name: str, tmp_path: Path) -> None:
    """timm's own files hold one head, those of distilled models two; all else must fit."""
    source = _model(name, num_classes=10)
    save_file(_tensors(source), tmp_path / "classifier.safetensors")
    target = _model(name, seed=1)
    load_timm_weights(target, tmp_path / "classifier.safetensors")
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key


def test_position_embeddings_are_resampled_for_another_size(tmp_path: Path) -> None:
    """A file of 160 pixels serves 64; a constant embedding stays the constant."""
    source = _model()
    source.pos_embed.data[:] = torch.arange(64.0)
    save_file(_tensors(source), tmp_path / "weights.safetensors")
    target = _model(img_size=64)
    load_timm_weights(target, tmp_path / "weights.safetensors")
    assert target.pos_embed.shape == (1, 1 + 4 * 4, 64)
    expected = torch.arange(64.0).expand_as(target.pos_embed)
    torch.testing.assert_close(target.pos_embed.data, expected)


def test_a_wrong_file_is_refused_by_its_first_wrong_tensor(tmp_path: Path) -> None:
    """Another model, another patch size (which timm would resample), no ViT at all."""
    path = tmp_path / "weights.safetensors"
    save_file(_tensors(_model("test_vit2")), path)
    with pytest.raises(ArtifactError, match="lacks the tensor 'cls_token'"):
        load_timm_weights(_model(), path)
    save_file(_tensors(_model(embed_dim=96)), path)
    with pytest.raises(ArtifactError, match=r"'patch_embed.proj.weight' has shape \[96, 3"):
        load_timm_weights(_model(), path)
    save_file(_tensors(_model(patch_size=8, img_size=80)), path)
    with pytest.raises(ArtifactError, match=r"shape \[64, 3, 8, 8\].*needs \[64, 3, 16, 16\]"):
        load_timm_weights(_model(), path)
    save_file({"conv1.weight": torch.ones(1), "register_tokens": torch.ones(1)}, path)
    with pytest.raises(ArtifactError, match="lacks the tensor 'cls_token'"):
        load_timm_weights(_model(), path)
    save_file({**_tensors(_model()), "extra": torch.ones(1)}, path)
    with pytest.raises(ArtifactError, match="holds the tensor 'extra'"):
        load_timm_weights(_model(), path)


def test_an_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    """Junk, and a path that leads nowhere."""
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not a readable weight file"):
        _features(torch.rand(1, 3, 64, 64), tmp_path / "junk.safetensors")
    with pytest.raises(ArtifactError, match="no weight file"):
        _features(torch.rand(1, 3, 64, 64), tmp_path / "absent.safetensors")


def test_biases_are_never_dropped_in_silence(tmp_path: Path, capfd: Any) -> None:
    """timm has DINOv3 with and without biases of the attention; the file's are kept."""
    tensors = {
        "storage_tokens": torch.zeros(1, 4, 384),
        "blocks.0.attn.qkv.bias": torch.ones(1152),
    }
    torch.save(tensors, tmp_path / "dinov3.pth")
    with pytest.raises(ArtifactError, match="biases") as error:
        load_timm_weights(_model("vit_small_patch16_dinov3"), tmp_path / "dinov3.pth")
    assert "_qkvb" in error.value.hint
    assert capfd.readouterr().out == ""  # timm's converter prints


def _fill_cache(cache: Path, repository: str, name: str, content: bytes) -> None:
    """Lay out a file as the hub's client does: blobs, a snapshot of links, and what main is."""
    root = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs/main").write_text(commit)
    (root / "blobs/feed").write_bytes(content)
    (root / f"snapshots/{commit}/{name}").symlink_to("../../blobs/feed")


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in an empty folder, torch's likewise, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    return tmp_path


def test_the_hubs_cache_serves_without_network(empty_caches: Path) -> None:
    """Before there is nothing at hand; then the cached weights are the ones that are used."""
    assert not weights_at_hand(f"timm:{TINY}")
    model = _model(seed=3, num_classes=1000)
    _fill_cache(empty_caches / "hub", REPOSITORY, "model.safetensors", save(_tensors(model)))
    assert weights_at_hand(f"timm:{TINY}")
    images = torch.rand(1, 3, 64, 64)
    save_file(_tensors(model), empty_caches / "same.safetensors")
    assert torch.equal(_features(images), _features(images, empty_caches / "same.safetensors"))


def test_torchs_cache_serves_as_well(empty_caches: Path) -> None:
    """The official file, as torch.hub has put it there for other programs."""
    assert not weights_at_hand("dino_vits8")
    official = empty_caches / "torch/checkpoints/dino_deitsmall8_pretrain.pth"
    official.parent.mkdir(parents=True)
    official.write_bytes(b"")
    assert weights_at_hand("dino_vits8")
    assert not weights_at_hand("dino_vits16")


def test_without_a_hub_the_error_names_the_ways_out(empty_caches: Path) -> None:
    """Offline and not cached: --weights FILE, or features that need none."""
    with pytest.raises(ArtifactError, match="not on this machine") as error:
        _features(torch.rand(1, 3, 64, 64))
    assert "--weights FILE" in error.value.hint
    assert "--features texture" in error.value.hint


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one repository that has its weights as pytorch_model.bin alone."""

    content = b""

    def do_HEAD(self) -> None:
        found = self.path == f"/{REPOSITORY}/resolve/main/pytorch_model.bin"
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", '"feed"')
            self.send_header("Content-Length", str(len(self.content)))
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def reach_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Points the hub's client to another address and lets it use the network."""

    def reach(address: str) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return reach


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub on this machine."""
    torch.save(_tensors(_model(seed=4)), tmp_path / "weights.bin")
    handler = type("Handler", (_Hub,), {"content": (tmp_path / "weights.bin").read_bytes()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_from_the_hub_once(
    hub: str, empty_caches: Path, reach_hub: Callable[[str], None]
) -> None:
    """The repository's .bin where it has no safetensors; afterwards the cache serves alone."""
    reach_hub(hub)
    images = torch.rand(1, 3, 64, 64)
    fetched = _features(images)
    save_file(_tensors(_model(seed=4)), empty_caches / "same.safetensors")
    assert torch.equal(fetched, _features(images, empty_caches / "same.safetensors"))
    assert weights_at_hand(f"timm:{TINY}")
    reach_hub("http://127.0.0.1:9")  # where nobody answers
    assert torch.equal(fetched, _features(images))


def test_a_hub_out_of_reach_is_not_waited_for(
    empty_caches: Path, reach_hub: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """One try, not the client's half minute of them."""
    reach_hub("http://127.0.0.1:9")
    with pytest.raises(ArtifactError, match=r"cannot be fetched from the hub \(ConnectError\)"):
        _features(torch.rand(1, 3, 64, 64))
    assert "Retrying" not in caplog.text


def test_a_repository_without_weights_is_named(
    hub: str, empty_caches: Path, reach_hub: Callable[[str], None]
) -> None:
    """The hub answers, but has no file of either name."""
    reach_hub(hub)
    with pytest.raises(ArtifactError, match=r"has no model.safetensors or pytorch_model.bin"):
        fetch_file("timm/other", WEIGHT_NAMES)


_AUTO = """
from sseg_core.pseudomask.features import resolve_features, weights_at_hand
print(weights_at_hand("dino_vits16"), resolve_features("auto"))
"""


@pytest.mark.slow
def test_the_hubs_environment_variables_are_obeyed(tmp_path: Path) -> None:
    """HF_HOME says where the cache is; what it holds decides what `auto` is."""
    _fill_cache(tmp_path / "hub", "timm/vit_small_patch8_224.dino", "model.safetensors", b"")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TORCH_"))}
    home = {"HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _AUTO], env={**kept, **home},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["False", "dino_vits8"]
