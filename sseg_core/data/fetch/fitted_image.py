"""Image files as shards hold them: JPEGs that any reader shows alike, and not too large."""

from __future__ import annotations

from sseg_core.config import DownloadConfig
from sseg_core.data.images import (
    ImageError,
    RGBImage,
    decode_image,
    encode_jpeg,
    image_size,
    is_plain_jpeg,
    resize_with_pillow,
)

_LONGEST_SIDE = 65_500  # that the encoder takes


def fit_image(data: bytes, config: DownloadConfig) -> tuple[bytes, RGBImage]:
    """Return an image file as a JPEG within the sizes that `config` allows, and its pixels.

    A plain JPEG that is small enough stays as it is, byte for byte; any other image is decoded,
    shrunk and encoded. Without torch, which each worker process would have to load.

    Args:
        data: the bytes of the image file, of any kind that `decode_image` reads.
        config: its `max_side`, `short_side`, `max_pixels` and `jpeg_quality`.

    Raises:
        ImageError: the image cannot be used.
    """
    height, width = image_size(data, max_pixels=config.max_pixels)
    scales = [1.0]
    if config.max_side is not None:
        scales.append(config.max_side / max(height, width))
    if config.short_side is not None:
        scales.append(config.short_side / min(height, width))
    scale = min(scales)
    if scale < 1 and scale * max(height, width) <= _LONGEST_SIDE:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        # What the fast way is off by, shrinking averages out.
        pixels = decode_image(
            data, max_pixels=config.max_pixels, size=size, resize=resize_with_pillow, fast=True
        )
    elif max(height, width) > _LONGEST_SIDE:
        raise ImageError("too large", f"has a side of more than {_LONGEST_SIDE:,} pixels")
    else:
        pixels = decode_image(data, max_pixels=config.max_pixels)
        if is_plain_jpeg(data):
            return data, pixels
    return encode_jpeg(pixels, config.jpeg_quality), pixels
