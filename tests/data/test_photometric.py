"""Mirrored together with the labels; colours as mmsegmentation distorts them."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable, Iterable, Sequence

import kornia.augmentation as kornia_augmentation
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as vision

from sseg_core.config import CropConfig
from sseg_core.data.photometric import LabelledAugmentation
from sseg_core.structures import BACKGROUND, VOID, LabelledBatch


def batch_of(count: int = 8, size: int = 16) -> LabelledBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = [0, 1, 254, 255, 1202, 32767, BACKGROUND, VOID]
    picks = torch.randint(0, len(labels), (count, size, size), generator=generator)
    label_maps = torch.tensor(labels, dtype=torch.int16)[picks]
    return LabelledBatch(images, label_maps, tuple(map(str, range(count))), {"corrupt": 2})


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_and_labels_are_mirrored_together(flip: float) -> None:
    """All or none, exactly: labels are whole numbers, negative ones too."""
    batch = batch_of()
    result = LabelledAugmentation(CropConfig(flip=flip, photometric=0))(batch)
    mirror: Callable[[Tensor], Tensor] = (lambda t: t.flip(-1)) if flip else (lambda t: t)
    assert (result.images.dtype, result.label_maps.dtype) == (torch.float32, torch.int16)
    assert torch.equal(result.images, mirror(batch.images).float() / 255)
    assert torch.equal(result.label_maps, mirror(batch.label_maps))
    assert (result.keys, result.skipped) == (batch.keys, batch.skipped)


def test_half_of_the_images_are_mirrored() -> None:
    """Each by a draw of its own, image and labels by the same."""
    torch.manual_seed(0)
    batch = batch_of(400, 4)
    result = LabelledAugmentation(CropConfig(photometric=0))(batch)
    image_is = (result.images == batch.images.flip(3).float() / 255).flatten(1).all(1)
    label_is = (result.label_maps == batch.label_maps.flip(2)).flatten(1).all(1)
    assert torch.equal(image_is, label_is)
    assert float(image_is.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 20)


def test_distortion_changes_colours_alone() -> None:
    """Values stay in [0, 1] and labels what they are; most images change, a sixteenth does not."""
    torch.manual_seed(0)
    batch = batch_of(800, 4)
    result = LabelledAugmentation(CropConfig(flip=0))(batch)
    assert torch.equal(result.label_maps, batch.label_maps)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    same = torch.isclose(result.images, batch.images.float() / 255, atol=1e-6).flatten(1).all(1)
    assert float(same.float().mean()) == pytest.approx(1 / 16, abs=4 * (1 / 16 / 800) ** 0.5)


def test_the_generator_state_replays_the_augmentation() -> None:
    """A run that restores torch's generator repeats its augmentations exactly."""
    augmentation = LabelledAugmentation(CropConfig())
    augmentation(batch_of())
    state = torch.get_rng_state()
    first = augmentation(batch_of())
    torch.set_rng_state(state)
    again = LabelledAugmentation(CropConfig())(batch_of())
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.label_maps, again.label_maps)
    assert not torch.equal(first.images, augmentation(batch_of()).images)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_ranges_are_those_of_mmsegmentation(strength: float) -> None:
    """A grey image shows brightness and contrast: the extremes of 3000 draws reach the limits."""
    torch.manual_seed(0)
    grey = torch.full((3000, 3, 1, 1), 102, dtype=torch.uint8)
    labels = torch.zeros(3000, 1, 1, dtype=torch.int16)
    batch = LabelledBatch(grey, labels, ("k",) * 3000)
    shown = LabelledAugmentation(CropConfig(flip=0, photometric=strength))(batch).images
    shown = shown[:, 0, 0, 0] * 255  # saturation and hue leave a grey alone
    lowest = (102 - 32 * strength) * (1 - 0.5 * strength)
    highest = (102 + 32 * strength) * (1 + 0.5 * strength)
    assert lowest <= float(shown.min()) < lowest + 8
    assert highest - 16 < float(shown.max()) <= highest + 1e-3
    untouched = (shown - 102).abs() < 1e-3
    assert float(untouched.float().mean()) == pytest.approx(0.25, abs=0.04)


def mmsegmentation(pixel: Sequence[float], rng: random.Random) -> list[float]:
    """One draw of PhotoMetricDistortion for a pixel in [0, 1], written down as published."""

    def shown(values: Iterable[float]) -> list[float]:
        return [min(1.0, max(0.0, value)) for value in values]

    def contrast(values: list[float]) -> list[float]:
        factor = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
        return shown(factor * value for value in values)

    values = list(pixel)
    if rng.random() < 0.5:
        change = rng.uniform(-32, 32) / 255
        values = shown(value + change for value in values)
    is_early = rng.random() < 0.5
    if is_early:
        values = contrast(values)
    hue, saturation, value = colorsys.rgb_to_hsv(*values)
    if rng.random() < 0.5:
        saturation = min(1.0, saturation * rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        hue += rng.uniform(-18, 18) / 180
    values = list(colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return values if is_early else contrast(values)


@pytest.mark.parametrize("pixel", [(250, 200, 60), (20, 90, 130), (240, 220, 200)])
def test_colours_are_distributed_as_in_mmsegmentation(pixel: tuple[int, int, int]) -> None:
    """Every channel: the distribution functions of 6000 draws each are nowhere far apart."""
    torch.manual_seed(0)
    images = torch.tensor(pixel, dtype=torch.uint8).view(1, 3, 1, 1).repeat(6000, 1, 1, 1)
    batch = LabelledBatch(images, torch.zeros(6000, 1, 1, dtype=torch.int16), ("k",) * 6000)
    found = LabelledAugmentation(CropConfig(flip=0))(batch).images[:, :, 0, 0].numpy()
    rng = random.Random(0)
    start = [value / 255 for value in pixel]
    expected = np.array([mmsegmentation(start, rng) for _ in range(6000)])
    levels = np.arange(0, 1, 1 / 510) + 1 / 1021  # between what unchanged channels may be
    for channel in range(3):
        ours, theirs = (
            (values[:, channel, None] < levels).mean(axis=0) for values in (found, expected)
        )
        assert np.abs(ours - theirs).max() < 1.95 * (2 / 6000) ** 0.5  # once in 1000


def test_contrast_comes_before_hue_and_saturation_or_behind() -> None:
    """Each way for about half of the images, and no image twice."""
    torch.manual_seed(0)
    augmentation = LabelledAugmentation(CropConfig(flip=0))
    seen: dict[str, list[float]] = {"early": [], "late": []}
    for name, numbers in seen.items():

        def note(images: torch.Tensor, numbers: list[float] = numbers) -> torch.Tensor:
            numbers += images[:, 0, 0, 0].mul(255).round().tolist()
            return images

        original = getattr(augmentation, f"_contrast_{name}")
        kinds = [type(operation).__name__ for operation in original.children()]
        assert (kinds.index("RandomContrast") == 1) == (name == "early")
        assert kinds.index("RandomSaturation") < kinds.index("RandomHue")
        setattr(augmentation, f"_contrast_{name}", note)
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).repeat(1, 3, 1, 1)
    augmentation(LabelledBatch(images, torch.zeros(256, 1, 1, dtype=torch.int16), ("k",) * 256))
    assert sorted(seen["early"] + seen["late"]) == list(range(256))
    assert len(seen["early"]) == pytest.approx(128, abs=32)


def distorted(name: str, image: Tensor, factor: float) -> Tensor:
    operation = getattr(kornia_augmentation, name)((factor, factor), p=1.0)
    return operation(image)


def test_kornias_distortions_are_those_of_mmsegmentation() -> None:
    """By number, against torchvision where it defines them alike, else against the formula."""
    image = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    added = distorted("RandomBrightness", image, 1 + 20 / 255)
    assert torch.allclose(added, (image + 20 / 255).clamp(0, 1), atol=1e-6)
    # torchvision's brightness is a factor: what mmsegmentation calls contrast.
    times = distorted("RandomContrast", image, 1.4)
    assert torch.allclose(times, vision.adjust_brightness(image, 1.4), atol=1e-6)
    turned = distorted("RandomHue", image, 0.1)
    assert torch.allclose(turned, vision.adjust_hue(image, 0.1), atol=2e-3)
    for factor in (0.5, 1.5):
        found = distorted("RandomSaturation", image, factor)[0].flatten(1).T.numpy()
        pixels = image[0].flatten(1).T.tolist()
        expected = []
        for pixel in pixels:
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected.append(colorsys.hsv_to_rgb(hue, min(1.0, factor * saturation), value))
        assert np.abs(found - np.array(expected)).max() < 1e-4
