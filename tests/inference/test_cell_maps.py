"""Maps interpolated block by block, against everything at full size at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.inference import cell_maps
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.windows import Box, Window, window_boxes


def _put_together(maps: CellMaps, size: tuple[int, int]) -> Tensor:
    """Return all blocks as one [W, H, W'] tensor; each pixel must come once."""
    whole, seen = torch.zeros(*size, maps.values[0].shape[2]), torch.zeros(size)
    for box, block in maps.blocks(size):
        assert block.shape[:2] == (box.height, box.width)
        whole[box.top : box.bottom, box.left : box.right] = block
        seen[box.top : box.bottom, box.left : box.right] += 1
    assert (seen == 1).all()
    return whole.permute(2, 0, 1)


def _slid(maps: CellMaps) -> Tensor:
    """Return the mean at the pixels that the windows were cut from, as mmsegmentation does."""
    shown_size = maps.windows[0].shown_size
    total = torch.zeros(maps.values[0].shape[2], *shown_size)
    count = torch.zeros(shown_size)
    for values, window in zip(maps.values, maps.windows, strict=True):
        box = window.box
        padded = (values.shape[0] * maps.cell, values.shape[1] * maps.cell)
        pixels = F.interpolate(values.permute(2, 0, 1)[None], padded, mode="bilinear")[0]
        place = (slice(box.top, box.bottom), slice(box.left, box.right))
        total[:, *place] += pixels[:, : box.height, : box.width]
        count[place] += 1
    return total / count


@pytest.mark.parametrize("few_cells", [0, 1 << 20])
@pytest.mark.parametrize("floats", [5, 2000, 1 << 20])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((40, 56), 0, 0),
        ((40, 56), 24, 12),
        ((40, 61), 24, 24),
        ((48, 33), 64, 32),
        ((37, 50), 16, 7),
    ],
)
def test_the_mean_of_windows_is_that_of_a_plain_slide(
    size: tuple[int, int],
    window: int,
    stride: int,
    floats: int,
    few_cells: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In blocks of any size, in one product or two, with windows that overlap and stick out."""
    monkeypatch.setattr(cell_maps, "_FEW_CELLS", few_cells)
    monkeypatch.setitem(cell_maps._FLOATS, "cpu", floats)
    boxes = window_boxes(size, window, stride)
    h, w = boxes[0].height, boxes[0].width
    values = torch.randn(
        len(boxes), -(-h // 8), -(-w // 8), 5, generator=torch.Generator().manual_seed(0)
    )
    maps = CellMaps(list(values), [Window(box, size) for box in boxes], cell=8)
    torch.testing.assert_close(_put_together(maps, size), _slid(maps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (23, 40), (6, 9), (4, 2), (1, 1)])
def test_maps_are_stretched_to_the_image_in_one_step(size: tuple[int, int]) -> None:
    """As by torch's bilinear interpolation, from the cells to pixels of any size."""
    values = torch.randn(1, 6, 9, 3, generator=torch.Generator().manual_seed(0))
    maps = CellMaps(list(values), [Window(Box(0, 0, 48, 72), (48, 72))], cell=8)
    expected = F.interpolate(values.permute(0, 3, 1, 2), size, mode="bilinear")[0]
    torch.testing.assert_close(_put_together(maps, size), expected, rtol=1e-4, atol=1e-5)


def test_blocks_of_a_thousand_words_stay_small() -> None:
    """The largest block is 4 MiB, whatever the words and the photo."""
    whole = Window(Box(0, 0, 48, 64), (48, 64))
    maps = CellMaps([torch.zeros(3, 4, 1103)], [whole], cell=16)
    blocks = maps.blocks((1536, 2048))
    assert all(next(blocks)[1].numel() <= 1 << 20 for _ in range(10))
