"""What users give as an image, and the size at which a network sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sseg_core.data.images import RGBImage, read_image, resize_image, to_rgb
from sseg_core.errors import ConfigError, DataError
from sseg_core.structures import MAX_PIXELS

ImageLike = str | Path | npt.NDArray[np.uint8] | Image.Image

LONGEST_SIDE = 4
"""The long side is at most this many times the short one, so that a panorama fits in memory."""


def as_rgb(image: ImageLike) -> RGBImage:
    """Return the pixels of a file, an array or a Pillow image, which is taken like a file.

    Raises:
        DataError: it cannot be read, or is no RGB image.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image), MAX_PIXELS)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(
            f"An image must be [H, W, 3] uint8, not {list(image.shape)} {image.dtype}.",
            "Scale to 0..255 and put the colours last.",
        )
    return image


def at_short_side(image: RGBImage, image_size: int) -> RGBImage:
    """Return the image at a short side of `image_size`, or smaller where it is very long."""
    if image_size < 1:
        raise ConfigError(f"image_size must be at least 1, got {image_size}.")
    height, width = image.shape[:2]
    scale = min(image_size / min(height, width), LONGEST_SIDE * image_size / max(height, width))
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(image, (new_height, new_width))
