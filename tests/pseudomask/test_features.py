"""Features: shapes and meaning of lab and rgb, tokens of any timm ViT, weights checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.pseudomask.features import FeatureExtractor, build_features

CPU = torch.device("cpu")
TINY = "test_vit"


def _build(name: str, grid: int = 16, weights: Path | None = None) -> FeatureExtractor:
    return build_features(name, grid=grid, weights=weights, device=CPU)


def _save(model: torch.nn.Module, path: Path) -> Path:
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(("name", "width"), [("lab", 5), ("rgb", 3)])
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


def test_a_vit_gives_its_normalised_patch_tokens(tmp_path: Path) -> None:
    """Weights from a file; the features are forward_features without the class token."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=0, dynamic_img_size=True).eval()
    extract = _build(f"timm:{TINY}", weights=_save(model, tmp_path / "vit.safetensors"))
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        tokens = model.forward_features((images - mean) / std)
    patch = model.patch_embed.patch_size[0]
    shape = (2, 64 // patch, 96 // patch)
    expected = tokens[:, model.num_prefix_tokens :].unflatten(1, shape[1:])
    actual = extract(images)
    assert actual.shape[:3] == shape
    assert not actual.requires_grad
    torch.testing.assert_close(actual, expected)


def test_dino_vits8_has_a_token_per_8_pixels(tmp_path: Path) -> None:
    """The paper's features, from random weights: 384 wide on a 28 x 28 grid at 224."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch8_224.dino", num_classes=0)
    extract = _build("dino_vits8", weights=_save(model, tmp_path / "dino.safetensors"))
    features = extract(torch.rand(1, 3, 224, 224))
    assert features.shape == (1, 28, 28, 384)
    assert torch.isfinite(features).all()


def test_a_classifier_file_is_used_without_its_head(tmp_path: Path) -> None:
    """timm's own files hold `head.*`; it is left out, everything else must fit."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=10)
    extract = _build(f"timm:{TINY}", weights=_save(model, tmp_path / "classifier.safetensors"))
    assert extract(torch.rand(1, 3, 32, 32)).ndim == 4


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """A missing, extra or misshapen tensor is an error that names it."""
    model = timm.create_model("test_vit2", num_classes=0)
    with pytest.raises(ArtifactError, match=r"tensor|shape"):
        _build(f"timm:{TINY}", weights=_save(model, tmp_path / "other.safetensors"))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not a readable weight file"):
        _build(f"timm:{TINY}", weights=tmp_path / "junk.safetensors")
    with pytest.raises(ArtifactError, match="no weight file"):
        _build(f"timm:{TINY}", weights=tmp_path / "absent.safetensors")


def test_without_a_hub_the_error_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and not cached: --weights FILE or --features lab."""

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ArtifactError, match="hub") as error:
        _build("dino_vits8")
    assert "--weights FILE" in error.value.hint
    assert "--features lab" in error.value.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("laab", "'lab'"),
        ("dino_vits16", "'dino_vits8'"),
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


def test_weights_for_features_without_weights_are_refused() -> None:
    """`--features lab --weights FILE` is a mistake, not a silent no-op."""
    with pytest.raises(ConfigError, match="lab features have no weights"):
        _build("lab", weights=Path("dino.pth"))


def test_an_image_size_that_does_not_fit_the_patches_is_refused(tmp_path: Path) -> None:
    """The hint names the next smaller size that fits."""
    model = timm.create_model(TINY, num_classes=0)
    patch = model.patch_embed.patch_size[0]
    extract = _build(f"timm:{TINY}", weights=_save(model, tmp_path / "vit.safetensors"))
    with pytest.raises(ConfigError) as error:
        extract(torch.rand(1, 3, 3 * patch + 1, 3 * patch + 1))
    assert f"image_size={3 * patch}" in error.value.hint
