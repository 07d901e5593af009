"""Windows over an image, and the regions that they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_core.inference.windows import Box, Window, regions, window_boxes

sides = st.integers(1, 60)


def _mmsegmentation(size: tuple[int, int], window: int, stride: int) -> list[Box]:
    """The windows as mmsegmentation's documentation of sliding inference describes them."""
    boxes = []
    rows = max(size[0] - window + stride - 1, 0) // stride + 1
    columns = max(size[1] - window + stride - 1, 0) // stride + 1
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride + window, size[0])
            right = min(column * stride + window, size[1])
            top, left = max(bottom - window, 0), max(right - window, 0)
            boxes.append(Box(top, left, bottom - top, right - left))
    return boxes


@given(sides, sides, sides, st.data())
def test_windows_lie_as_mmsegmentation_lays_them(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    """For any image, window and stride, the same windows come in the same order."""
    stride = data.draw(st.integers(1, window))
    expected = _mmsegmentation((height, width), window, stride)
    assert window_boxes((height, width), window, stride) == expected


def test_the_last_window_is_flush_with_the_border() -> None:
    """448 pixels on 448 x 597 with a stride of 224 begin at 0 and at 149."""
    boxes = window_boxes((448, 597), 448, 224)
    assert boxes == [Box(0, 0, 448, 448), Box(0, 149, 448, 448)]
    assert boxes[1].right == 597


@pytest.mark.parametrize(("window", "stride"), [(0, 0), (0, 7), (100, 50)])
def test_one_window_shows_a_small_image_whole(window: int, stride: int) -> None:
    """Without windows, or where the image fits into one, there is one, and it is the image."""
    assert window_boxes((30, 40), window, stride) == [Box(0, 0, 30, 40)]


def test_windows_overlap_by_half_unless_told() -> None:
    """A stride of 0 is half the window, and one pixel for the smallest."""
    assert window_boxes((8, 16), 8, 0) == [Box(0, x, 8, 8) for x in (0, 4, 8)]
    assert len(window_boxes((1, 3), 1, 0)) == 3


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, st.integers(4, 30), st.data())
def test_regions_cut_the_result_without_gaps_by_pixel_centres(
    height: int, width: int, H: int, W: int, window: int, data: st.DataObject
) -> None:
    """Each pixel is in one region, whose windows are those that hold the pixel's centre."""
    stride = data.draw(st.integers(window // 4, window))
    boxes = window_boxes((height, width), window, stride)
    seen = np.zeros((H, W), int)
    windows = [Window(box, (height, width)) for box in boxes]
    for region in regions(windows, (H, W)):
        box = region.box
        seen[box.top : box.bottom, box.left : box.right] += 1
        for y in {box.top, box.bottom - 1}:
            for x in {box.left, box.right - 1}:
                # Twice the centre times the size of the result, in whole numbers.
                centre_y, centre_x = (2 * y + 1) * height, (2 * x + 1) * width
                covering = tuple(
                    index
                    for index, b in enumerate(boxes)
                    if 2 * H * b.top <= centre_y < 2 * H * b.bottom
                    and 2 * W * b.left <= centre_x < 2 * W * b.right
                )
                assert region.looks == (covering,)
    assert (seen == 1).all()


def test_a_whole_image_is_one_region() -> None:
    """One window gives one region of all pixels."""
    [region] = regions([Window(Box(0, 0, 30, 40), (30, 40))], (123, 7))
    assert (region.box, region.looks) == (Box(0, 0, 123, 7), ((0,),))
