"""Windows that count less towards their borders, against full maps of plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_core.inference import mask_weights
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.combine import best_of_windows, class_scores
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.windows import Box, Window, blend_weights, regions, window_boxes


def _tapering(
    shown: tuple[int, int], window: int, stride: int, *, mirrored: bool = False, look: int = 0
) -> list[Window]:
    return [
        Window(box, shown, mirrored, look, tapers=True)
        for box in window_boxes(shown, window, stride)
    ]


def _triangle(first: int, end: int, length: int, pixels: int) -> np.ndarray:
    """Return [pixels] the height of a roof over [first, end], flat towards the image's border."""
    centres = (np.arange(pixels) + 0.5) * length / pixels
    heights = [float(first == 0), 1.0, float(end == length)]
    roof = np.interp(centres, [first, (first + end) / 2, end], heights)
    return np.where((centres >= first) & (centres < end), np.maximum(roof, 1e-6), 0)


def _full_weights(windows: Sequence[Window], size: tuple[int, int]) -> np.ndarray:
    """Return [n, H, W] float64 how much each window counts, with a sum of 1."""
    maps = np.stack(
        [
            np.outer(
                _triangle(w.box.top, w.box.bottom, w.shown_size[0], size[0]),
                _triangle(w.box.left, w.box.right, w.shown_size[1], size[1]),
            )
            for w in windows
        ]
    )
    looks = np.array([w.look for w in windows])
    for look in np.unique(looks):
        maps[looks == look] /= maps[looks == look].sum(axis=0) * len(np.unique(looks))
    return maps


def _stretched(
    values_Mhw: np.ndarray, window: Window, stride: int, size: tuple[int, int]
) -> np.ndarray:
    """Return [M, H, W] float64 a window's cells interpolated at all pixels, one axis at a time."""
    if window.mirrored:  # what it saw counts from the right border of its box
        left = window.shown_size[1] - window.box.right
        mirror = replace(window, mirrored=False, box=replace(window.box, left=left))
        return _stretched(values_Mhw, mirror, stride, size)[..., ::-1]
    maps = values_Mhw.astype(np.float64)
    for axis, first in ((0, window.box.top), (1, window.box.left)):
        cells = np.arange(maps.shape[1 + axis])
        centres = (np.arange(size[axis]) + 0.5) * window.shown_size[axis] / size[axis] - first
        places = np.clip(centres / stride - 0.5, 0, cells[-1])
        hats = np.maximum(0, 1 - np.abs(places[:, None] - cells))
        maps = np.moveaxis(np.tensordot(maps, hats, axes=(1 + axis, 1)), -1, 1 + axis)
    return maps


LOOKS = {
    "one look": _tapering((32, 45), 20, 10),
    "windows side by side": _tapering((32, 45), 20, 20),
    "flush with the border": _tapering((20, 45), 24, 13),
    "one window": _tapering((20, 30), 0, 0),
    "mirrored": [*_tapering((33, 47), 25, 14), *_tapering((33, 47), 25, 14, mirrored=True, look=1)],
    "two scales": [*_tapering((24, 36), 20, 12), *_tapering((30, 45), 24, 16, look=1)],
}


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 30),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.data(),
)
def test_blend_weights_are_those_of_full_maps(
    shown: tuple[int, int], window: int, size: tuple[int, int], data: st.DataObject
) -> None:
    """For any image, windows and result, every pixel has the weights of the plain roofs."""
    windows = _tapering(shown, window, data.draw(st.integers(max(1, window // 4), window)))
    expected = _full_weights(windows, size)
    for region in regions(windows, size):
        rows = np.arange(region.box.top, region.box.bottom)
        columns = np.arange(region.box.left, region.box.right)
        weights = blend_weights(windows, region, rows, columns, size)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
        place = np.ix_(list(region.shares), rows, columns)
        np.testing.assert_allclose(weights, expected[place], atol=1e-5)


def test_windows_that_do_not_taper_share_evenly() -> None:
    """They count 1 everywhere; so the weights are those of `Region.shares`."""
    windows = [replace(w, tapers=False) for w in LOOKS["two scales"]]
    np.testing.assert_array_equal(windows[0].ramp(1, np.arange(9), 36), np.ones(9, np.float32))
    for region in regions(windows, (24, 36)):
        line = np.arange(1)
        weights = blend_weights(
            windows, region, line + region.box.top, line + region.box.left, (24, 36)
        )
        np.testing.assert_allclose(
            weights[:, 0, 0], [1 / share for share in region.shares.values()], rtol=1e-6
        )


def test_a_ramp_is_one_in_the_middle_and_falls_inside_the_image_only() -> None:
    """A window of 8 pixels in the middle of 24, and one at the border."""
    middle = Window(Box(8, 0, 8, 24), (24, 24), tapers=True)
    np.testing.assert_allclose(
        middle.ramp(0, np.arange(8, 16), 24),
        [0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125],
    )
    np.testing.assert_array_equal(middle.ramp(1, np.arange(24), 24), np.ones(24))
    first = Window(Box(0, 0, 8, 24), (24, 24), tapers=True)
    np.testing.assert_allclose(
        first.ramp(0, np.arange(8), 24), [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125]
    )


@pytest.mark.parametrize("size", [(50, 71), (11, 7)])
@pytest.mark.parametrize("looks", LOOKS)
def test_masks_are_blended_as_in_full(
    looks: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are those of weighting every window's full map; they sum to 1; the best is theirs."""
    monkeypatch.setattr(mask_weights, "_BLOCK", 1 << 14)  # several blocks in a row
    windows, generator = LOOKS[looks], torch.Generator().manual_seed(0)
    shapes = [(5, -(-w.box.height // 4), -(-w.box.width // 4)) for w in windows]
    logits = [4 * torch.randn(*shape, generator=generator) for shape in shapes]
    classes = [torch.randn(5, 40, generator=generator).softmax(dim=1) for _ in windows]
    masks = [WindowMasks(*parts, 4) for parts in zip(logits, classes, windows, strict=True)]
    expected = np.zeros((40, *size))
    full = _full_weights(windows, size)
    for window, of_masks, of_classes, weight in zip(windows, logits, classes, full, strict=True):
        sigmoids = 1 / (1 + np.exp(-_stretched(of_masks.numpy(), window, 4, size)))
        probabilities = sigmoids / sigmoids.sum(axis=0)
        expected += weight * np.einsum("qc,qyx->cyx", of_classes.double().numpy(), probabilities)
    scores = class_scores(masks, size)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(scores.sum(dim=0), torch.ones(size), atol=1e-5, rtol=0)
    best = best_of_windows(masks, size)
    np.testing.assert_allclose(best.probabilities.numpy(), expected.max(axis=0), atol=1e-5)


@pytest.mark.parametrize("size", [(50, 71), (11, 7)])
@pytest.mark.parametrize("looks", LOOKS)
def test_cells_are_blended_as_in_full(looks: str, size: tuple[int, int]) -> None:
    """The softmax of each window's interpolated logits, weighted at full size."""
    windows, generator = LOOKS[looks], torch.Generator().manual_seed(0)
    shapes = [(-(-w.box.height // 4), -(-w.box.width // 4), 6) for w in windows]
    logits = [3 * torch.randn(*shape, generator=generator) for shape in shapes]
    expected = np.zeros((*size, 6))
    for window, values, weight in zip(windows, logits, _full_weights(windows, size), strict=True):
        powers = np.exp(_stretched(values.permute(2, 0, 1).numpy(), window, 4, size))
        expected += (weight * powers / powers.sum(axis=0)).transpose(1, 2, 0)
    actual = np.zeros((*size, 6))
    for box, block in CellMaps(logits, windows, 4).blocks(size, lambda own: own.softmax(dim=2)):
        actual[box.top : box.bottom, box.left : box.right] = block.numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_no_seam_shows_where_windows_overlap() -> None:
    """Of windows that each tell one constant, the steps are those of the ramp, not of a seam."""
    size, window, stride = (16, 400), 80, 40
    windows = _tapering(size, window, stride)
    values = [torch.full((4, 20, 1), float(number % 2)) for number in range(len(windows))]

    def steepest(members: list[Window]) -> float:
        whole = np.zeros(size)
        for box, block in CellMaps(values, members, 4).blocks(size):
            whole[box.top : box.bottom, box.left : box.right] = block[..., 0].numpy()
        return float(np.abs(np.diff(whole, axis=1)).max())

    assert steepest([replace(w, tapers=False) for w in windows]) == 0.5
    # From one to the other over half a window; at the border of the image only over the overlap.
    assert steepest(windows) <= 2 / window + 1e-6
