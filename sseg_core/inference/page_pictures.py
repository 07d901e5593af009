"""Photos and label maps in the form in which a page holds them."""

from __future__ import annotations

import base64
import math
import zlib
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Label = TypeVar("Label", bound=np.integer)


def shrunk(
    image: npt.NDArray[np.uint8], maps: npt.NDArray[Label], long_side: int
) -> tuple[Image.Image, npt.NDArray[Label]]:
    """Return a photo and its label maps with a long side of at most so many pixels.

    Args:
        image: [H, W, 3] uint8 RGB.
        maps: [..., H, W] labels; of each new pixel the one at its middle.
        long_side: in pixels; smaller photos keep their size.
    """
    height, width = image.shape[:2]
    photo = Image.fromarray(image)
    shrink = long_side / max(height, width)
    if shrink >= 1:
        return photo, maps
    size = (max(1, math.floor(width * shrink)), max(1, math.floor(height * shrink)))
    columns = (2 * np.arange(size[0]) + 1) * width // (2 * size[0])
    rows = (2 * np.arange(size[1]) + 1) * height // (2 * size[1])
    smaller = photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return smaller, maps[..., rows[:, None], columns]


def packed_labels(labels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> str:
    """Return labels row by row, little-endian, deflated by zlib, in base64."""
    little = labels.astype(labels.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes())).decode("ascii")
