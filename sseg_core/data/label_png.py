"""Label maps and confidences as PNG, without loss of a label.

Runs of equal pixels make up a label map, so the strategy of zlib that looks for nothing else gives
the smallest files at the speed of the fastest level. Measured on 40 photos of 500 x 375 pixels:
2.7 kB in 0.8 ms for labels, 27 kB in 2 ms for confidences; zlib's defaults need 3.0 kB in 1.2 ms
and 25 kB in 9 ms.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sseg_core.data.images import ImageError
from sseg_core.structures import LabelMap

MAX_CLASSES = 2**15
"""Labels are int16."""

_RUN_LENGTHS = 3  # Z_RLE of zlib
_HIGHEST_BYTE = 253  # 254 and 255 are VOID and BACKGROUND, wrapped around


def _labels_of_bytes() -> LabelMap:
    labels = np.arange(256, dtype=np.int16)
    labels[_HIGHEST_BYTE + 1 :] -= 256
    return labels


_LABELS_OF_BYTES = _labels_of_bytes()


def encode_labels(label_map: LabelMap) -> bytes:
    """Return a grey PNG of [H, W] labels: the class index; void and background wrap around.

    It has 8 bits where they are enough for the classes of this image, else 16.
    """
    is_small = int(label_map.max()) <= _HIGHEST_BYTE
    return _encode(label_map.astype(np.uint8 if is_small else np.uint16))


def decode_labels(data: bytes, size: tuple[int, int]) -> LabelMap:
    """Return the [H, W] int16 labels of a PNG that `encode_labels` made.

    Args:
        data: the PNG.
        size: H and W that it must have.

    Raises:
        ImageError: it is damaged or of another size; the reason is "bad label".
    """
    pixels = _decode(data, size, {"L", "I", "I;16"})
    if pixels.dtype == np.uint8:
        return _LABELS_OF_BYTES[pixels]
    return pixels.astype(np.uint16).view(np.int16)


def encode_confidence(confidence: npt.NDArray[np.float32]) -> bytes:
    """Return a grey PNG of round(255 p) for [H, W] probabilities p in [0, 1]."""
    return _encode(confidence_levels(confidence))


def decode_confidence(data: bytes, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the [H, W] levels, 255 p, of a PNG that `encode_confidence` made.

    Args:
        data: the PNG.
        size: H and W that it must have.

    Raises:
        ImageError: it is damaged or of another size; the reason is "bad label".
    """
    return _decode(data, size, {"L"})


def confidence_levels(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return round(255 p), of equally near whole numbers the even one."""
    return np.rint(255 * confidence).astype(np.uint8)


def _encode(values: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(values)
    image.save(stream, "PNG", compress_level=1, compress_type=_RUN_LENGTHS)
    return stream.getvalue()


def _decode(data: bytes, size: tuple[int, int], modes: set[str]) -> npt.NDArray[np.uint8]:
    """Return the pixels, uint8 or wider, once the header shows what it must."""
    subject = "The label image"
    try:
        with PngImageFile(io.BytesIO(data)) as image:
            if image.mode not in modes or (image.height, image.width) != size:
                raise ImageError("bad label", "is not the one that was written", subject)
            return np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        raise ImageError("bad label", "is damaged", subject) from error
