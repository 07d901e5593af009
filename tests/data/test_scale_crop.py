"""A crop shows what the scaled image would, and its labels lie where they belong."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sseg_core.config import CropConfig
from sseg_core.data import scale_crop as module
from sseg_core.data.images import RGBImage
from sseg_core.data.scale_crop import PADDING_RGB, scale_crop
from sseg_core.structures import BACKGROUND, VOID, LabelMap


def config(size: int = 64, **options: object) -> CropConfig:
    return CropConfig(**{"crop_size": size, "short_side": size, "scale": (1.0, 1.0), **options})


def noise(height: int, width: int) -> tuple[RGBImage, LabelMap]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return image, rng.integers(VOID, 30, (height, width)).astype(np.int16)


def coloured(height: int, width: int, cell: int) -> tuple[RGBImage, LabelMap]:
    """Squares whose colour tells their label: red is 8 times the class."""
    rows, columns = np.mgrid[:height, :width] // cell
    label_map = ((rows * 5 + columns * 7) % 31).astype(np.int16)
    red = (label_map * 8).astype(np.uint8)
    return np.stack([red, 255 - red, red], axis=2), label_map


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 200), (150, 64)])
def test_at_its_own_scale_a_crop_is_a_slice(height: int, width: int) -> None:
    """No pixel changes; where the slice begins, the labels tell too."""
    image, label_map = noise(height, width)
    for seed in range(20):
        cropped, labels = scale_crop(image, label_map, config(), random.Random(seed))
        [places] = [
            (y, x)
            for y in range(height - 63)
            for x in range(width - 63)
            if np.array_equal(label_map[y : y + 64, x : x + 64], labels)
        ]
        y, x = places
        assert np.array_equal(cropped, image[y : y + 64, x : x + 64])


@pytest.mark.parametrize(("short_side", "scale"), [(96, 1.0), (48, 2.0), (200, 0.75), (41, 1.7)])
def test_a_crop_is_a_slice_of_the_scaled_image(short_side: int, scale: float) -> None:
    """The image scaled as a whole by Pillow, and cut at the nearest pixel, shows the same."""
    side, (height, width) = 32, (90, 120)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([2 * rows, 2 * columns, rows + columns], axis=2).astype(np.uint8)
    label_map = (rows // 10 * 12 + columns // 10).astype(np.int16)
    short = round(short_side * scale)
    size = (round(width * short / height), short)
    whole = np.asarray(Image.fromarray(smooth).resize(size, Image.Resampling.BILINEAR))
    options = {"short_side": short_side, "crop_size": side, "scale": (scale, scale)}
    factor = short / height
    for seed in range(20):
        cropped, labels = scale_crop(smooth, label_map, config(**options), random.Random(seed))
        # Red and green tell the place: they rise by two per pixel of the image.
        y, x = (float(cropped[4:-4, 4:-4, c].astype(float).mean() / 2 + 0.5) for c in (0, 1))
        top, left = (round(middle * factor - side / 2) for middle in (y, x))
        expected = whole[top : top + side, left : left + side].astype(float)
        step = 2 / factor  # grey levels from pixel to pixel
        inner = (slice(2, -2), slice(2, -2))
        assert np.abs(cropped.astype(float) - expected)[inner].max() <= 0.5 * step + 2
        # Each pixel's own colour names the pixel of the image, and that its label.
        at_y, at_x = ((cropped[..., c] / 2).round().astype(int) for c in (0, 1))
        borders = (np.abs(at_y % 10 - 4.5) > 3) | (np.abs(at_x % 10 - 4.5) > 3)
        assert np.array_equal((at_y // 10 * 12 + at_x // 10)[~borders], labels[~borders])


@pytest.mark.parametrize(
    ("height", "width"), [(100, 300), (300, 100), (37, 41), (400, 400), (64, 1000)]
)
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.3, 2.0])
def test_image_and_labels_stay_aligned(height: int, width: int, ratio: float) -> None:
    """The colour of a pixel tells its label, but where bilinear mixes at the borders of labels."""
    shorter = min(height, width)
    image, label_map = coloured(height, width, cell=max(8, shorter // 6))
    mixed = math.ceil(max(1, 96 * ratio / shorter)) + 1  # pixels of the crop
    for seed in range(10):
        options = config(96, scale=(ratio, ratio))
        cropped, labels = scale_crop(image, label_map, options, random.Random(seed))
        counted = labels != VOID
        values = torch.from_numpy(labels)[None].float()
        window = {"kernel_size": 2 * mixed + 1, "stride": 1, "padding": mixed}
        highest, lowest = F.max_pool2d(values, **window), -F.max_pool2d(-values, **window)
        inner = counted & (highest == lowest)[0].numpy()
        inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False  # what lies beyond is mixed in
        assert inner.sum() > 0.1 * counted.sum()
        assert np.abs(cropped[..., 0] / 8 - labels)[inner].max() < 0.13  # a grey level
        assert (cropped[~counted] == PADDING_RGB).all()


@pytest.mark.parametrize(
    ("height", "width", "ratio", "shown"),
    [
        (60, 80, 0.5, (32, 43)),
        (80, 60, 0.5, (43, 32)),
        (60, 80, 1.2, (64, 64)),
        (1, 5000, 1.0, (64, 64)),
        (5000, 1, 0.5, (64, 32)),
        (1, 1, 2.0, (64, 64)),
        (1, 1, 0.5, (32, 32)),
        (2, 3, 0.3, (19, 29)),
    ],
)
def test_small_images_are_padded_to_the_right_and_below(
    height: int, width: int, ratio: float, shown: tuple[int, int]
) -> None:
    """Every crop has the same size; padding is void, of the mean colour."""
    image = np.full((height, width, 3), 200, np.uint8)
    label_map = np.full((height, width), 5, np.int16)
    options = config(scale=(ratio, ratio))
    cropped, labels = scale_crop(image, label_map, options, random.Random(0))
    assert (cropped.shape, cropped.dtype) == ((64, 64, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((64, 64), np.int16)
    rows, columns = shown
    assert (labels[:rows, :columns] == 5).all()
    assert (cropped[:rows, :columns] == 200).all()
    outside = np.ones((64, 64), bool)
    outside[:rows, :columns] = False
    assert (labels[outside] == VOID).all()
    assert (cropped[outside] == PADDING_RGB).all()


def test_labels_are_never_mixed() -> None:
    """No label but those of the image, background and void included."""
    rng = np.random.default_rng(0)
    label_map = rng.choice([3, 900, BACKGROUND, VOID], (70, 90)).astype(np.int16)
    image = np.zeros((70, 90, 3), np.uint8)
    for seed in range(20):
        options = config(scale=(0.5, 2.0))
        _, labels = scale_crop(image, label_map, options, random.Random(seed))
        assert set(np.unique(labels).tolist()) <= {3, 900, BACKGROUND, VOID}


def test_scales_and_positions_are_uniform() -> None:
    """Means and spread of 3000 crops, within four standard errors."""
    rows, columns = np.mgrid[:100, :100]
    image = np.stack([2 * rows, 2 * columns, 0 * rows], axis=2).astype(np.uint8)
    label_map = (rows // 2 % 2 * 2 + columns // 2 % 2).astype(np.int16)  # varied everywhere
    options = config(40, short_side=80, scale=(0.75, 2.0))
    rng = random.Random(0)
    ratios, tops = [], []
    for _ in range(3000):
        cropped, _ = scale_crop(image, label_map, options, rng)
        top, bottom, left, right = (cropped[at].astype(float).mean() / 2 for at in _near_edges())
        assert bottom - top == pytest.approx(right - left, abs=1)
        scale = 32 / (bottom - top)  # pixels of the crop per pixel of the image
        ratios.append(scale * 100 / 80)
        covered = 40 / scale
        tops.append(((top + bottom) / 2 + 0.5 - covered / 2) / (100 - covered))
    for values, low, high in ((ratios, 0.75, 2.0), (tops, 0.0, 1.0)):
        spread = (high - low) / 12**0.5
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=4 * spread / 3000**0.5)
        assert np.std(values) == pytest.approx(spread, rel=0.05)


def _near_edges() -> list[tuple[object, ...]]:
    return [(4, ..., 0), (36, ..., 0), (slice(None), 4, 1), (slice(None), 36, 1)]


def test_windows_of_a_single_label_are_drawn_again() -> None:
    """One label fills nine tenths of the image: crops with more of the other are preferred."""
    label_map = np.zeros((64, 640), np.int16)
    label_map[:, 400:464] = 1
    image = np.zeros((64, 640, 3), np.uint8)
    shares = []
    for seed in range(400):
        _, labels = scale_crop(image, label_map, config(), random.Random(seed))
        shares.append((labels == 1).mean())
    # A window is varied if it begins in 32 + 32 of 577 places; one of ten draws finds such.
    share_varied = np.mean([0.25 < share < 0.75 for share in shares])
    expected = 1 - (1 - 62 / 577) ** 10
    assert share_varied == pytest.approx(expected, abs=4 * (0.25 / 400) ** 0.5)


def test_void_does_not_make_a_window_varied() -> None:
    """Among the pixels that count there is one label: the last of ten draws is taken."""
    label_map = np.zeros((64, 640), np.int16)
    label_map[:, ::2] = VOID
    image = np.zeros((64, 640, 3), np.uint8)

    class Counting(random.Random):
        draws = 0

        def randint(self, low: int, high: int) -> int:
            Counting.draws += 1
            return super().randint(low, high)

    scale_crop(image, label_map, config(), Counting(0))
    assert Counting.draws == 20
    scale_crop(image[:, :64], label_map[:, :64], config(), Counting(0))
    assert Counting.draws == 22  # the window is the image: there is nothing else to draw


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.7])
def test_large_windows_are_resized_band_by_band(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """With the same result as at once."""
    image, label_map = noise(300, 410)
    results = []
    for band in (2**22, 5000):
        monkeypatch.setattr(module, "_BAND_PIXELS", band)
        options = config(scale=(ratio, ratio))
        results.append(scale_crop(image, label_map, options, random.Random(1))[0])
    assert np.array_equal(results[0], results[1])


def test_resizing_is_that_of_torch_in_floats() -> None:
    """Within a grey level of the whole image interpolated in float, at a third of its size."""
    image, label_map = noise(192, 192)
    cropped, _ = scale_crop(image, label_map, config(), random.Random(0))
    floats = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
    whole = F.interpolate(floats, (64, 64), mode="bilinear", antialias=True)
    expected = whole[0].permute(1, 2, 0).numpy()
    assert np.abs(cropped - expected).max() <= 1


MEMORY = """
import random, resource, sys
import numpy as np
from sseg_core.config import CropConfig
from sseg_core.data.scale_crop import scale_crop

config = CropConfig(scale=(float(sys.argv[1]),) * 2)
small = np.zeros((300, 400, 3), np.uint8), np.zeros((300, 400), np.int16)
scale_crop(*small, config, random.Random(0))
# Zeros that nobody has written take no memory, so only what is made of them counts.
large = np.zeros((9000, 12000, 3), np.uint8), np.zeros((9000, 12000), np.int16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scale_crop(*large, config, random.Random(0))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
@pytest.mark.parametrize("ratio", ["0.5", "2"])
def test_a_large_photo_takes_no_more_memory_than_its_crop(ratio: str) -> None:
    """12000 x 9000 pixels are 309 MiB; the crop takes some tens beside them."""
    command = [sys.executable, "-c", MEMORY, ratio]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output) < 80
