"""Image and label map are cropped and flipped alike."""

from __future__ import annotations

import pytest
import torch

from sseg_core.config import LoaderConfig
from sseg_core.data.augment import Augmentation
from sseg_core.structures import IGNORE_LABEL, Batch


def batch_of(images: torch.Tensor, label_maps: torch.Tensor) -> Batch:
    count = len(images)
    ids = torch.zeros(count, 2, dtype=torch.int64)
    return Batch(images, label_maps, ids, tuple(f"s{i}" for i in range(count)), {"corrupt": 1})


def config(**options: object) -> LoaderConfig:
    return LoaderConfig(**{"load_size": 64, "crop_size": 48, **options})


def checkered(count: int = 16, size: int = 64) -> Batch:
    """Each image shows its label map: 16 blocks of their own grey, whose id is the label."""
    rows, columns = torch.meshgrid(*[torch.arange(size) * 4 // size] * 2, indexing="ij")
    label_maps = (rows * 4 + columns).expand(count, -1, -1).to(torch.uint8)
    images = (label_maps * 16)[:, None].expand(-1, 3, -1, -1).contiguous()
    return batch_of(images, label_maps)


@pytest.mark.parametrize("as_on_gpu", [False, True])
def test_image_and_label_map_stay_aligned(monkeypatch: pytest.MonkeyPatch, as_on_gpu: bool) -> None:
    """After any crop and flip, the grey value of a pixel still tells its label."""
    torch.manual_seed(0)
    augmentation = Augmentation(config())
    if as_on_gpu:
        monkeypatch.setattr(augmentation, "_on_cpu", augmentation._on_accelerator)
    result = augmentation(checkered())
    assert result.images.shape == (16, 3, 48, 48)
    assert result.label_maps.shape == (16, 48, 48)
    shown = result.images[:, 0] * 255 / 16
    flat = (shown - shown.round()).abs() < 0.02  # interpolation mixes at the blocks' borders
    assert flat.float().mean() > 0.5
    agree = (shown.round() == result.label_maps)[flat]
    # At a border, nearest and bilinear may take different sides.
    assert agree.float().mean() > 0.97


def test_crops_and_flips_differ_within_a_batch() -> None:
    """Each sample gets its own crop."""
    torch.manual_seed(0)
    label_maps = Augmentation(config())(checkered()).label_maps
    assert len({tuple(m.flatten().tolist()) for m in label_maps}) > 12


def test_label_maps_gain_no_new_ids() -> None:
    """Labels are never interpolated, the ignore label included."""
    label_maps = torch.zeros(8, 64, 64, dtype=torch.uint8)
    label_maps[:, ::3] = 7
    label_maps[:, :, ::5] = IGNORE_LABEL
    images = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    result = Augmentation(config())(batch_of(images, label_maps))
    assert result.label_maps.dtype == torch.uint8
    assert set(result.label_maps.unique().tolist()) <= {0, 7, IGNORE_LABEL}


def test_identity_settings_are_exact() -> None:
    """A crop of the whole image at its own size without flips changes nothing."""
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    label_maps = torch.randint(0, 9, (4, 64, 64), dtype=torch.uint8)
    still = config(crop_size=64, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    batch = batch_of(images, label_maps)
    result = Augmentation(still)(batch)
    assert torch.equal(result.images, images.float() / 255)
    assert torch.equal(result.label_maps, label_maps)
    assert (result.keys, result.skipped) == (batch.keys, batch.skipped)
    assert result.token_ids is batch.token_ids


def test_a_certain_flip_mirrors_both() -> None:
    """flip=1 mirrors image and label map from left to right."""
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    label_maps = torch.randint(0, 9, (4, 64, 64), dtype=torch.uint8)
    flipped = config(crop_size=64, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=1.0)
    result = Augmentation(flipped)(batch_of(images, label_maps))
    assert torch.allclose(result.images, images.flip(-1).float() / 255, atol=1e-6)
    assert torch.equal(result.label_maps, label_maps.flip(-1))


@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_the_generator_state_replays_the_augmentation(color_jitter: float) -> None:
    """A run that restores torch's generator repeats its augmentations exactly."""
    augmentation = Augmentation(config(color_jitter=color_jitter))
    augmentation(checkered())
    state = torch.get_rng_state()
    first = augmentation(checkered())
    torch.set_rng_state(state)
    again = Augmentation(config(color_jitter=color_jitter))(checkered())
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.label_maps, again.label_maps)


def test_color_jitter_leaves_the_label_map_alone() -> None:
    """Jitter changes colours within [0, 1] and no label."""
    torch.manual_seed(0)
    still = {"crop_size": 64, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}
    batch = checkered()
    result = Augmentation(config(**still, color_jitter=0.5))(batch)
    assert not torch.allclose(result.images, batch.images.float() / 255, atol=0.02)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert torch.equal(result.label_maps, batch.label_maps)
