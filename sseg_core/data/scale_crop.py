"""A random crop of an image and its labels at a random scale, on the host.

As the training pipelines of mmsegmentation that BEiT's UperNet follows (S-Seg App. A.2): the ratio
to the base size is drawn uniformly, then a window of the scaled image, up to 10 times while a
single label fills three quarters of it. The scaled image is never made: only the window is, from
the pixels under it. A window begins at a whole pixel of the image as it was, so that it is resized
by exactly the scale that was drawn, without a shift between image and labels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sseg_core.config import CropConfig
from sseg_core.data.images import RGBImage
from sseg_core.structures import VOID, LabelMap

PADDING_RGB = (124, 116, 104)
"""ImageNet's mean colour, which is 0 once it is normalised."""

_MAX_SHARE = 0.75  # of a single label in a window, mmsegmentation's cat_max_ratio
_DRAWS = 10  # of a window
_COUNTED_STEP = 4  # every fourth pixel of every fourth row tells the shares well enough
_BAND_PIXELS = 2**22  # of the image that are copied at once
_ROUNDING = 1 + 1e-7  # the scale is a float; without this, 375 * (512 / 375) could give 511 pixels

_Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Span:
    """One direction, height or width, of a crop.

    Attributes:
        length: pixels of the image.
        scaled: pixels of the scaled image.
        first: pixel of the image at which the window begins.
        count: pixels of the image that the window covers.
        side: pixels of the crop that show the image; behind them is padding.
    """

    length: int
    scaled: int
    first: int
    count: int
    side: int

    @property
    def scale(self) -> float:
        """Pixels of the crop per pixel of the image."""
        return self.scaled / self.length

    @property
    def nearest(self) -> _Index:
        """The pixel of the image under the centre of each pixel of the crop."""
        steps = (2 * np.arange(self.side) + 1) * self.length // (2 * self.scaled)
        return self.first + steps


def scale_crop(
    image: RGBImage, label_map: LabelMap, config: CropConfig, rng: random.Random
) -> tuple[RGBImage, LabelMap]:
    """Return a random crop of S x S pixels, S being `config.crop_size`.

    At ratio 1 the short side of the scaled image has `config.short_side` pixels. Where the scaled
    image is smaller than the crop, it is padded to the right and below: with `PADDING_RGB`, and
    `VOID` in the labels.

    Args:
        image: [H, W, 3] uint8 RGB.
        label_map: [H, W] int16 labels.
        config: sizes and the range of the ratio.
        rng: decides on ratio and window.

    Returns:
        [S, S, 3] uint8, resized bilinearly without aliasing, and [S, S] int16, by nearest
        neighbour: labels are those of the image or `VOID`.
    """
    ratio = rng.uniform(*config.scale)
    short = max(1, round(config.short_side * ratio))
    rows, columns = (
        _scaled(length, short, min(label_map.shape), config.crop_size) for length in label_map.shape
    )
    for _ in range(_DRAWS):
        rows, columns = _moved(rows, rng), _moved(columns, rng)
        is_whole = rows.count == rows.length and columns.count == columns.length
        if is_whole or _is_varied(label_map, rows, columns):
            break
    side = config.crop_size
    cropped = np.empty((side, side, 3), np.uint8)
    cropped[rows.side :] = cropped[:, columns.side :] = PADDING_RGB
    cropped[: rows.side, : columns.side] = _resized(image, rows, columns)
    labels = np.full((side, side), VOID, np.int16)
    labels[: rows.side, : columns.side] = _picked(label_map, rows.nearest, columns.nearest)
    return cropped, labels


def _scaled(length: int, short: int, shorter: int, crop_size: int) -> Span:
    """Return the span of a direction, its window at the beginning."""
    scaled = max(1, (2 * length * short + shorter) // (2 * shorter))  # rounded
    side = min(crop_size, scaled)
    return Span(length, scaled, first=0, count=-(-side * length // scaled), side=side)


def _moved(span: Span, rng: random.Random) -> Span:
    first = rng.randint(0, span.length - span.count)
    return Span(span.length, span.scaled, first, span.count, span.side)


def _is_varied(label_map: LabelMap, rows: Span, columns: Span) -> bool:
    """Return whether no label has more than its share of the window's pixels that count."""
    step = slice(None, None, _COUNTED_STEP)
    labels = _picked(label_map, rows.nearest[step], columns.nearest[step])
    counts = np.bincount(labels.ravel().astype(np.intp) - VOID)[1:]
    return bool(counts.max(initial=0) < _MAX_SHARE * counts.sum())


def _picked(label_map: LabelMap, rows: _Index, columns: _Index) -> LabelMap:
    return label_map.take(rows, axis=0).take(columns, axis=1)


def _resized(image: RGBImage, rows: Span, columns: Span) -> RGBImage:
    """Return the pixels of a window, [rows.side, columns.side, 3].

    torch copies what it is to cut out. So a window of millions of pixels is narrowed band by band,
    then shortened; which is what torch does in one go, with the same result.
    """
    window = image[
        rows.first : rows.first + rows.count, columns.first : columns.first + columns.count
    ]
    band = max(1, _BAND_PIXELS // columns.count)
    if rows.count <= band:
        resized = _interpolated(window, rows.scale, columns.scale)
    else:
        starts = range(0, rows.count, band)
        narrow = [_interpolated(window[start : start + band], 1, columns.scale) for start in starts]
        resized = _interpolated(np.concatenate(narrow), rows.scale, 1)
    return resized[: rows.side, : columns.side]


def _interpolated(pixels: RGBImage, vertical: float, horizontal: float) -> RGBImage:
    pixels_1HW3 = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    resized_13HW = F.interpolate(
        pixels_1HW3.permute(0, 3, 1, 2),
        scale_factor=(vertical * _ROUNDING, horizontal * _ROUNDING),
        mode="bilinear",
        antialias=True,
    )
    resized: RGBImage = resized_13HW[0].permute(1, 2, 0).numpy()
    return resized
