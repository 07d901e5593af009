"""PseudoMaskGenerator: label maps that depend on the image and its key alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sseg_core.config import PseudomaskConfig
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.pseudomask.label_png import encode_label_map

CPU = torch.device("cpu")
CONFIG = PseudomaskConfig(features="lab", grid=16, image_size=64, masks=4)


@pytest.fixture
def images() -> torch.Tensor:
    """Five images of random coarse patches."""
    coarse = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="nearest")


def test_label_maps_are_bytes_on_the_grid(images: torch.Tensor) -> None:
    """One map per image, K labels at most."""
    maps = PseudoMaskGenerator(CONFIG, CPU)(images, list("abcde"))
    assert (maps.shape, maps.dtype) == ((5, 16, 16), torch.uint8)
    assert all(np.array_equal(np.unique(m), np.arange(4)) for m in maps)


def test_segments_are_numbered_as_they_appear(images: torch.Tensor) -> None:
    """Reading row by row, each new segment has the next number."""
    for label_map in PseudoMaskGenerator(CONFIG, CPU)(images, list("abcde")).numpy():
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


def test_an_image_without_finite_features_is_marked_and_harms_no_other(
    images: torch.Tensor,
) -> None:
    """NaN and infinite pixels: 255 everywhere for that image, the others as without it."""
    generator = PseudoMaskGenerator(CONFIG, CPU)
    maps = generator(images, list("abcde"))
    broken = images.clone()
    broken[1, 0, 3, 3] = torch.nan
    broken[3, 2, 9, 9] = torch.inf
    again = generator(broken, list("abcde"))
    assert (again[[1, 3]] == 255).all()
    assert torch.equal(again[[0, 2, 4]], maps[[0, 2, 4]])


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
