"""Images at several sizes, mirrored and in windows, and what is put together of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.errors import ConfigError
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.combine import class_scores
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.looks import looks_at
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box, Window, regions, window_boxes

NAMES = ("cat", "dog", "sky")
Taught = Callable[..., tuple[Any, Segmenter]]


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return small[np.arange(height)[:, None] * 9 // height, np.arange(width) * 12 // width]


def _view(**options: Any) -> View:
    return View(**options).completed(short_side=40, templates=None, logit_scale=None)


# --- the windows --------------------------------------------------------------------------------


def test_one_look_is_the_image_as_it_is_resized() -> None:
    """Unless scales or a mirror image are asked for."""
    image = _image(50, 70)
    [looks] = looks_at([image], _view())
    [(window, pixels)] = looks.windows()
    assert window == Window(Box(0, 0, 40, 56), (40, 56))
    assert np.array_equal(pixels, at_short_side(image, 40)[None])


def test_looks_come_scale_by_scale_each_as_it_is_and_mirrored() -> None:
    """The box of a mirrored window is where it lies in the image, and its pixels are mirrored."""
    image = _image(50, 70)
    view = _view(scales=(0.5, 1.5), flip=True, window=24, stride=20)
    [looks] = looks_at([image], view)
    windows = list(looks.windows())
    assert [w.look for w, _ in windows] == sorted(w.look for w, _ in windows)
    assert {(w.look, w.mirrored, w.shown_size) for w, _ in windows} == {
        (0, False, (20, 28)), (1, True, (20, 28)), (2, False, (60, 84)), (3, True, (60, 84)),
    }  # fmt: skip
    for window, pixels in windows:
        box = window.box
        shown = at_short_side(image, min(window.shown_size))
        part = shown[box.top : box.bottom, box.left : box.right]
        part = part[:, ::-1] if window.mirrored else part
        assert np.array_equal(pixels[0], part)
        assert pixels.flags.c_contiguous
    # Over the mirror image the windows are laid anew, from its left.
    lefts = [w.box.left for w, _ in windows if w.look == 2 and w.box.top == 0]
    rights = [84 - w.box.right for w, _ in windows if w.look == 3 and w.box.top == 0]
    assert lefts == rights == [0, 20, 40, 60]


def test_images_share_a_pass_only_where_all_their_looks_have_one_size() -> None:
    """100 x 150 and 100 x 152 are alike at a short side of 20, and not at 40."""
    images = [_image(100, 150), _image(100, 152), _image(100, 150, 1)]
    members = [looks.members for looks in looks_at(images, _view(scales=(0.5,)))]
    assert members == [(0, 1, 2)]
    members = [looks.members for looks in looks_at(images, _view(scales=(0.5, 1.0)))]
    assert members == [(0, 2), (1,)]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_size_is_refused(scale: float) -> None:
    """In one sentence."""
    with pytest.raises(ConfigError, match="cannot be looked at at"):
        View(scales=(1.0, scale))


def test_the_smallest_look_has_a_pixel() -> None:
    """However small the scale is."""
    [looks] = looks_at([_image(50, 70)], _view(scales=(1e-6,)))
    assert [pixels.shape for _, pixels in looks.windows()] == [(1, 1, 1, 3)]


# --- at the pixels of the result ----------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(4, 30),
)
def test_every_pixel_is_in_every_look(
    sizes: list[tuple[int, int]], H: int, W: int, window: int
) -> None:
    """Regions of looks of any sizes leave no gap, and hold the windows of the pixels' centres."""
    windows = [
        Window(box, size, look=look)
        for look, size in enumerate(sizes)
        for box in window_boxes(size, window, max(1, window // 2))
    ]
    seen = np.zeros((H, W), int)
    for region in regions(windows, (H, W)):
        box = region.box
        seen[box.top : box.bottom, box.left : box.right] += 1
        assert len(region.looks) == len(sizes)
        for y in {box.top, box.bottom - 1}:
            for x in {box.left, box.right - 1}:
                holding = {
                    index
                    for index, w in enumerate(windows)
                    if 2 * H * w.box.top <= (2 * y + 1) * w.shown_size[0] < 2 * H * w.box.bottom
                    and 2 * W * w.box.left <= (2 * x + 1) * w.shown_size[1] < 2 * W * w.box.right
                }
                assert holding == {index for look in region.looks for index in look}
                assert all(look for look in region.looks)
        assert sum(1 / share for share in region.shares.values()) == pytest.approx(1)
    assert (seen == 1).all()


RAMPS = [
    ((40, 56), 4), ((30, 42), 4), ((53, 74), 4), ((80, 112), 16), ((61, 85), 8), ((20, 28), 1),
]  # fmt: skip


def _ramp(size: tuple[int, int], cell: int, box: Box, *, mirrored: bool) -> torch.Tensor:
    """Return [h, w] how far to the right in the image the centres of a window's cells lie."""
    h, w = -(-box.height // cell), -(-box.width // cell)
    x = (torch.arange(w, dtype=torch.float64) + 0.5) * cell
    x = box.right - x if mirrored else box.left + x
    return (x / size[1]).float().expand(h, w)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("size", "cell"), RAMPS)
@pytest.mark.parametrize("window", [0, 24])
def test_a_ramp_lies_on_the_same_pixels_at_every_scale(
    size: tuple[int, int], cell: int, window: int, mirrored: bool
) -> None:
    """Cells of whatever size are stretched to the right pixels, mirrored or not, for both kinds."""
    windows = [Window(box, size, mirrored) for box in window_boxes(size, window, window // 2)]
    ramps = [_ramp(size, cell, w.box, mirrored=mirrored) for w in windows]
    expected = ((torch.arange(70) + 0.5) / 70).expand(50, 70)
    maps = CellMaps([ramp[..., None] for ramp in ramps], windows, cell)
    of_cells = torch.zeros(50, 70)
    for box, block in maps.blocks((50, 70)):
        of_cells[box.top : box.bottom, box.left : box.right] = block[..., 0]
    masks = [
        WindowMasks(torch.stack([ramp, 1 - ramp]), torch.eye(2), w, cell, are_weights=True)
        for ramp, w in zip(ramps, windows, strict=True)
    ]
    of_masks = class_scores(masks, (50, 70))[0]
    # Half a cell from where a window ends, the last cell reaches to the end.
    is_inside = torch.ones(70, dtype=torch.bool)
    x = (torch.arange(70) + 0.5) * size[1] / 70
    for w in windows:
        cells = -(-w.box.width // cell) * cell
        edges = (w.box.right, w.box.right - cells) if mirrored else (w.box.left, w.box.left + cells)
        for edge in edges:
            is_inside &= (x - edge).abs() >= cell / 2
    if cell < 16 or not window:
        assert is_inside.float().mean() > 0.2
    torch.testing.assert_close(of_cells[:, is_inside], expected[:, is_inside], atol=2e-6, rtol=0)
    torch.testing.assert_close(of_masks[:, is_inside], expected[:, is_inside], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["words", "classes"])
def test_every_look_counts_the_same(kind: str) -> None:
    """One look in a single window weighs as much as one in many, whatever a pixel is in."""
    sizes = {0: (20, 30), 1: (40, 60)}
    windows = [Window(Box(0, 0, 20, 30), sizes[0], look=0)]
    windows += [Window(box, sizes[1], look=1) for box in window_boxes(sizes[1], 24, 8)]
    numbers = [0.0 if w.look == 0 else 1.0 for w in windows]
    if kind == "classes":
        values = [
            torch.full((w.box.height, w.box.width, 1), n)
            for w, n in zip(windows, numbers, strict=True)
        ]
        blocks = CellMaps(values, windows, 1).blocks((33, 44))
        assert all(torch.allclose(block, torch.tensor(0.5)) for _, block in blocks)
    else:
        masks = [
            WindowMasks(torch.ones(1, w.box.height, w.box.width), torch.tensor([[n, 1 - n]]), w, 1)
            for w, n in zip(windows, numbers, strict=True)
        ]
        torch.testing.assert_close(class_scores(masks, (33, 44)), torch.full((2, 33, 44), 0.5))


# --- with networks ------------------------------------------------------------------------------


@pytest.fixture(params=["words", "classes"])
def segmenter(
    request: pytest.FixtureRequest,
    taught: Taught,
    tmp_path: Path,
    make_checkpoint: Callable[[ArtifactStore], Artifact],
) -> Segmenter:
    """An untrained S-Seg, or a small student that knows background."""
    if request.param == "classes":
        return taught(NAMES, background=True)[1]
    store = ArtifactStore(tmp_path)
    make_checkpoint(store)
    return Segmenter.load(store=store, device="cpu")


def _scores(segmenter: Segmenter, image: np.ndarray, view: View) -> np.ndarray:
    """Return the probabilities of all classes under a view, [C, H, W]."""
    network = segmenter._network
    with torch.inference_mode():
        view = segmenter.complete(view)
        [looks] = looks_at([image], view)
        [seen] = network.look(looks, Vocabulary.of(NAMES), view)
        return seen.class_probabilities(image.shape[:2])


@pytest.mark.parametrize("window", [0, 32])
def test_probabilities_are_averaged_over_scales_and_mirror_images(
    segmenter: Segmenter, window: int
) -> None:
    """The mean of six passes, each made by hand."""
    image = _image(50, 70)
    mirrored = image[:, ::-1].copy()
    own = {"window": window, "stride": 20}
    passes = []
    for short_side in (20, 40, 60):
        view = View(short_side=short_side, **own)
        passes += [_scores(segmenter, image, view), _scores(segmenter, mirrored, view)[..., ::-1]]
    expected = np.mean(passes, axis=0)
    view = View(short_side=40, scales=(0.5, 1.0, 1.5), flip=True, **own)
    np.testing.assert_allclose(_scores(segmenter, image, view), expected, atol=1e-5)
    assert np.abs(np.std(passes, axis=0)).max() > 1e-4
    [result] = segmenter.segment_batch([image], NAMES, view=view)
    is_class = result.label_map >= 0
    best = expected.max(axis=0)
    np.testing.assert_allclose(result.probabilities[is_class], best[is_class], atol=1e-5)
    ties = np.sort(expected, axis=0)[-2] > best - 1e-5
    same = result.label_map == expected.argmax(axis=0)
    assert (same | ties)[is_class].all()


@pytest.mark.parametrize("refine", ["none", "pamr"])
def test_with_the_mirror_image_left_and_right_do_not_matter(
    segmenter: Segmenter, refine: Any
) -> None:
    """The mirror image of a photo gives the mirror image of its result, in windows too."""
    # Odd widths at both scales: no pixel's centre lies on the border of a window.
    image = _image(50, 76)
    mirrored = image[:, ::-1].copy()
    asked: dict[str, Any] = {"scales": (0.7, 1.0), "window": 30, "stride": 17, "refine": refine}
    for flip in (False, True):
        view = View(flip=flip, **asked)
        results = segmenter.segment_batch([image, mirrored], NAMES, view=view)
        difference = np.abs(results[0].probabilities - results[1].probabilities[:, ::-1])
        if flip:
            assert difference.max() < 1e-4
            assert (results[0].label_map == results[1].label_map[:, ::-1]).mean() > 0.998
        else:
            assert difference.max() > 1e-3


def test_scale_one_without_the_mirror_image_changes_nothing(segmenter: Segmenter) -> None:
    """To the last bit."""
    image = _image(50, 70)
    plain = segmenter.segment(image, NAMES)
    [result] = segmenter.segment_batch([image], NAMES, view=View(scales=(1.0,), flip=False))
    assert np.array_equal(result.probabilities, plain.probabilities)
    assert np.array_equal(result.label_map, plain.label_map)


def test_a_photos_ramp_is_found_where_it_is_at_every_scale(taught: Taught) -> None:
    """Resizing and stretching back move nothing, either: brightness grows from left to right."""
    student, segmenter = taught(("bright", "dark"), background=False)
    with torch.no_grad():
        student.conv.weight.zero_()
        student.conv.weight[0, :, 3:5, 3:5] = 8 / 12  # eight times the mean of the middle
        student.conv.bias.zero_()
    ramp = np.linspace(0, 255, 140).round().astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (100, 140, 3)).copy()
    x = np.linspace(-0.5, 0.5, 140)
    expected = 1 / (1 + np.exp(-8 * x))
    for scale in (0.75, 1.0, 1.6, 2.5):
        for flip in (False, True):
            view = View(scales=(scale,), flip=flip)
            [result] = segmenter.segment_batch([image], ("bright", "dark"), view=view)
            bright = np.where(result.label_map == 0, result.probabilities, 1 - result.probabilities)
            # A shift of one pixel of 140 would be 0.014.
            assert np.abs(bright - expected)[16:-16, 16:-16].max() < 0.006
