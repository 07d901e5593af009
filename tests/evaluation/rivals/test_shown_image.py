"""What of an image a rival's network gets to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sseg_core.evaluation.rivals.shown_image import ShownImage
from sseg_core.inference.view import View
from sseg_core.inference.windows import Box, Window


def test_windows_hold_the_pixels_of_the_resized_image(photo: Callable[..., Any]) -> None:
    """From 0 to 1, row by row; one window is the whole image as it is where the size fits."""
    image, cpu = photo(40, 56), torch.device("cpu")
    whole = ShownImage(image, View(short_side=40, window=0, stride=0), cpu)
    expected = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert whole.windows == [Window(Box(0, 0, 40, 56), (40, 56))]
    assert torch.equal(whole.pixels_n3hw[0], expected)
    cut = ShownImage(image, View(short_side=40, window=32, stride=16), cpu)
    assert cut.pixels_n3hw.shape == (6, 3, 32, 32)
    assert cut.windows[5] == Window(Box(8, 24, 32, 32), (40, 56))
    assert torch.equal(cut.pixels_n3hw[5], expected[:, 8:, 24:])
    small = ShownImage(image, View(short_side=20, window=0, stride=0), cpu)
    assert small.pixels_n3hw.shape == (1, 3, 20, 28)
