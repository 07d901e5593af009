"""Label maps as palette PNGs: exact ids for programs, colours for people."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.structures import IGNORE_LABEL


def encode_label_map(label_map: npt.NDArray[np.uint8]) -> bytes:
    """Return [H, W] labels as an 8-bit palette PNG; the pixel values are the labels."""
    image = Image.fromarray(label_map)
    image.putpalette(_PALETTE)  # turns the grey image into one of mode P
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def label_colors() -> npt.NDArray[np.uint8]:
    """Return the [256, 3] RGB colour of every label, as the PNGs show it."""
    return np.frombuffer(_PALETTE, np.uint8).reshape(256, 3)


def _palette() -> bytes:
    # Steps of the golden ratio keep the hues of neighbouring labels far apart; brightness
    # alternates because hues alone run out after a dozen. Ignored pixels are white.
    colors = [
        colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, (0.95, 0.7, 0.45)[label % 3])
        for label in range(256)
    ]
    colors[IGNORE_LABEL] = (1.0, 1.0, 1.0)
    return bytes(round(255 * channel) for color in colors for channel in color)


_PALETTE = _palette()
