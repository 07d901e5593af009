"""Outlines against pycocotools' rasteriser and scipy's filled masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from sseg_core.inference import outlines
from sseg_core.inference.outlines import polygons


def _filled(mask: np.ndarray) -> np.ndarray:
    """Parts do not hang together over corners, so what is outside does."""
    filled: np.ndarray = ndimage.binary_fill_holes(mask, structure=np.ones((3, 3)))
    return filled


def _drawn(parts: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    if not parts:
        return np.zeros(shape, bool)
    drawn: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, *shape)))
    return drawn.astype(bool)


def _area(part: list[float]) -> float:
    x, y = np.reshape(part, (-1, 2)).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _blobs(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width))
    blobs: np.ndarray = ndimage.gaussian_filter(noise, 12) > 0.003
    return blobs


def _rectangle(left: int, top: int, right: int, bottom: int) -> set[tuple[float, float]]:
    return {(left, top), (right, top), (right, bottom), (left, bottom)}


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_without_tolerance_the_filled_mask_comes_back(mask: np.ndarray) -> None:
    """Drawn again, and by area: no part lies in another, and none is lost."""
    parts = polygons(mask, tolerance=0)
    filled = _filled(mask)
    np.testing.assert_array_equal(_drawn(parts, mask.shape), filled)
    areas = [_area(part) for part in parts]
    assert sum(areas) == filled.sum()
    assert areas == sorted(areas, reverse=True)
    labels, count = ndimage.label(filled)
    assert sorted(areas) == sorted(np.bincount(labels.ravel())[1:].tolist())
    assert len(parts) == count


@pytest.mark.parametrize("seed", range(4))
def test_simple_borders_hardly_change_a_mask(seed: int) -> None:
    """Within a pixel, with a fraction of the corners."""
    mask = _blobs(150, 211, seed)
    exact, simple = polygons(mask, tolerance=0), polygons(mask)
    filled, drawn = _filled(mask), _drawn(simple, mask.shape)
    assert (filled & drawn).sum() >= 0.97 * (filled | drawn).sum()
    assert sum(map(len, simple)) < 0.4 * sum(map(len, exact))
    beyond = ndimage.distance_transform_edt(~filled)[drawn]
    assert beyond.max() <= 1.5  # centres of pixels, half a pixel from the border


def test_small_and_thin_parts_stay_what_they_are() -> None:
    """A pixel, a line and a ring survive a tolerance that is larger than they are."""
    mask = np.zeros((30, 40), bool)
    mask[2, 3] = mask[5, 10:30] = True
    mask[10:20, 10:20] = True
    mask[12:18, 12:18] = False
    parts = polygons(mask, tolerance=5)
    np.testing.assert_array_equal(_drawn(parts, mask.shape), _filled(mask))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((5, 7), bool), []),
        (np.zeros((0, 7), bool), []),
        (np.ones((5, 7), bool), [_rectangle(0, 0, 7, 5)]),
        (np.ones((1, 1), bool), [_rectangle(0, 0, 1, 1)]),
        (np.eye(2, dtype=bool), [_rectangle(0, 0, 1, 1), _rectangle(1, 1, 2, 2)]),
    ],
)
def test_corners_are_those_of_the_pixels(
    mask: np.ndarray, expected: list[set[tuple[float, float]]]
) -> None:
    """Nothing, all, one pixel, and two that touch at a corner, from the first pixel's corner on."""
    found = [{(x, y) for x, y in np.reshape(part, (-1, 2)).tolist()} for part in polygons(mask)]
    assert sorted(found, key=min) == expected


def test_an_island_in_a_hole_is_part_of_what_is_filled() -> None:
    """It would count twice; an island outside of all holes stays."""
    mask = np.zeros((20, 30), bool)
    mask[2:18, 2:18] = True
    mask[5:15, 5:15] = False
    mask[8:12, 8:12] = True
    mask[4:8, 22:26] = True
    parts = polygons(mask)
    assert [_area(part) for part in parts] == [256, 16]


def test_a_large_mask_is_followed_at_a_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 times the pixels nearly the same outlines come, up to the border of the mask."""
    monkeypatch.setattr(outlines, "_MOST_PIXELS", 1000)
    mask = np.zeros((230, 300), bool)
    mask[20:223, 31:255] = True
    [part] = polygons(mask)
    x, y = np.reshape(part, (-1, 2)).T
    assert (x.min(), x.max(), y.min(), y.max()) == (31, 255, 20, 223)
    blobs = _blobs(230, 300, 0)
    filled, drawn = _filled(blobs), _drawn(polygons(blobs), blobs.shape)
    assert (filled & drawn).sum() >= 0.85 * (filled | drawn).sum()
    thin = np.zeros((230, 300), bool)
    thin[0, 0] = thin[224, 296] = True
    assert polygons(thin) == []
