"""PseudoMaskGenerator: label maps that depend on the image and its key alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sseg_core.config import PseudomaskConfig
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.pseudomask.label_png import encode_label_map

CPU = torch.device("cpu")
CONFIG = PseudomaskConfig(grid=16, image_size=64, masks=4)


@pytest.fixture
def images() -> torch.Tensor:
    """Five images of random coarse patches."""
    coarse = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="nearest")


def test_label_maps_are_bytes_on_the_grid(images: torch.Tensor) -> None:
    """One map per image, K labels at most."""
    maps = PseudoMaskGenerator(CONFIG, CPU)(images, list("abcde"))
    assert (maps.shape, maps.dtype) == ((5, 16, 16), np.uint8)
    assert all(np.array_equal(np.unique(m), np.arange(4)) for m in maps)


def test_segments_are_numbered_as_they_appear(images: torch.Tensor) -> None:
    """Reading row by row, each new segment has the next number."""
    for label_map in PseudoMaskGenerator(CONFIG, CPU)(images, list("abcde")):
        firsts = [int(np.argmax(label_map.ravel() == label)) for label in np.unique(label_map)]
        assert firsts[0] == 0
        assert firsts == sorted(firsts)


def test_the_result_depends_on_image_and_key_alone(images: torch.Tensor) -> None:
    """Order and batch composition change nothing; another key or seed may."""
    generator = PseudoMaskGenerator(CONFIG, CPU)
    keys = list("abcde")
    maps = generator(images, keys)
    order = [4, 1, 3]
    again = generator(images[order], [keys[i] for i in order])
    assert np.array_equal(again, maps[order])
    assert np.array_equal(PseudoMaskGenerator(CONFIG, CPU)(images[:1], ["a"])[0], maps[0])
    reseeded = PseudoMaskGenerator(CONFIG.model_copy(update={"seed": 1}), CPU)(images, keys)
    assert not np.array_equal(reseeded, maps)


def test_two_colours_become_two_segments_along_their_border() -> None:
    """A half-red, half-blue image with K = 2 is cut where the colour changes."""
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :, :24] = 1
    image[:, 2, :, 24:] = 1
    config = CONFIG.model_copy(update={"masks": 2})
    (label_map,) = PseudoMaskGenerator(config, CPU)(image, ["x"])
    assert np.array_equal(label_map, np.repeat([[0] * 6 + [1] * 10], 16, axis=0))


def test_an_image_of_one_colour_is_no_error() -> None:
    """Plain RGB features of a blank image: a single segment."""
    config = CONFIG.model_copy(update={"features": "rgb"})
    (label_map,) = PseudoMaskGenerator(config, CPU)(torch.ones(1, 3, 64, 64), ["blank"])
    assert label_map.max() == 0


def test_a_label_png_keeps_the_ids_and_shows_colours() -> None:
    """Mode P, the pixel values are the labels, neighbouring labels have far colours."""
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.open(io.BytesIO(encode_label_map(labels)))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    colors = np.asarray(image.convert("RGB"), dtype=int).reshape(-1, 3)
    assert colors[255].tolist() == [255, 255, 255]
    first = colors[:16]
    distances = np.abs(first[:, None] - first[None]).sum(2)
    assert distances[~np.eye(16, dtype=bool)].min() > 40


def test_lab_masks_of_real_photos_can_express_their_classes(real_data: Path) -> None:
    """Each segment told its majority class, mIoU on the Pascal photos is at least 50."""
    root = real_data / "voc-mini" / "VOC2012"
    keys = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    photos = [Image.open(root / "JPEGImages" / f"{key}.jpg").resize((224, 224)) for key in keys]
    images = torch.from_numpy(np.stack([np.asarray(p) for p in photos])).permute(0, 3, 1, 2) / 255
    confusion = np.zeros((21, 21))
    for key, label_map in zip(
        keys, PseudoMaskGenerator(PseudomaskConfig(), CPU)(images, keys), strict=True
    ):
        with Image.open(root / "SegmentationClass" / f"{key}.png") as image:
            truth = np.asarray(image)
            resized = Image.fromarray(label_map).resize(image.size, Image.Resampling.NEAREST)
        segments, classes = np.asarray(resized)[truth != 255], truth[truth != 255]
        for segment in np.unique(segments):
            counts = np.bincount(classes[segments == segment], minlength=21)
            confusion[:, counts.argmax()] += counts
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    present = confusion.sum(1) > 0
    assert (confusion.diagonal()[present] / union[present]).mean() >= 0.5
