"""NumPy alone makes of masks what torch makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_core.inference import array_masks
from sseg_core.inference.array_best_class import ArrayRanking
from sseg_core.inference.array_masks import MaskArrays, SeenWindows
from sseg_core.inference.combine import best_of_windows, class_scores
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.windows import Box, Window, window_boxes

STRIDE = 4
Sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def _looks(
    shown: Sequence[tuple[int, int]],
    window: int = 0,
    step: int = 0,
    *,
    flip: bool = False,
    tapers: bool = False,
) -> list[Window]:
    """The windows of images shown at some sizes, each mirrored as well if asked."""
    windows = []
    for number, size in enumerate(shown):
        for mirrored in (False, True) if flip else (False,):
            for box in window_boxes(size, window, step):
                place = replace(box, left=size[1] - box.right) if mirrored else box
                windows.append(Window(place, size, mirrored, 2 * number + mirrored, tapers))
    return windows


def _seen(
    windows: Sequence[Window], *, queries: int = 5, classes: int = 40, seed: int = 0
) -> SeenWindows:
    """Random masks in windows, each with classes of its own."""
    rng = np.random.default_rng(seed)
    seen = []
    for window in windows:
        h, w = -(-window.box.height // STRIDE), -(-window.box.width // STRIDE)
        logits = 4 * rng.standard_normal((queries, h, w), np.float32)
        powers = np.exp(3 * rng.standard_normal((queries, classes), np.float32))
        shares = powers / powers.sum(axis=1, keepdims=True)
        seen.append(MaskArrays(logits, shares, window, STRIDE))
    return SeenWindows(seen)


def _torch(seen: SeenWindows) -> list[WindowMasks]:
    return [
        WindowMasks(
            torch.from_numpy(own.logits.copy()),
            torch.from_numpy(own.class_probabilities.copy()),
            own.window,
            own.stride,
        )
        for own in seen.windows
    ]


def _all_scores(seen: SeenWindows, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return seen.word_scores(size, np.arange(seen.windows[0].class_probabilities.shape[1]))


def _compare(seen: SeenWindows, size: tuple[int, int], atol: float = 1e-6) -> None:
    """Scores, best classes and their probabilities are torch's, but for ties in rounding."""
    expected = class_scores(_torch(seen), size).numpy()
    scores = _all_scores(seen, size)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=atol)
    labels, probabilities = seen.best_words(size)
    theirs = best_of_windows(_torch(seen), size)
    assert (labels.dtype, probabilities.dtype) == (np.int16, np.float32)
    np.testing.assert_allclose(probabilities, theirs.probabilities.numpy(), rtol=1e-5, atol=atol)
    two_best = np.sort(expected, axis=0)[-2:]
    is_clear = np.ptp(two_best, axis=0) > 1e-5 + atol if len(two_best) == 2 else np.ones(size, bool)
    np.testing.assert_array_equal(labels[is_clear], theirs.classes.numpy()[is_clear])


@settings(max_examples=60, deadline=None)
@given(
    shown=st.lists(Sizes, min_size=1, max_size=2),
    size=Sizes,
    window=st.integers(0, 30),
    flip=st.booleans(),
    tapers=st.booleans(),
    queries=st.integers(1, 6),
    classes=st.sampled_from([1, 2, 5, 40]),
    block=st.sampled_from([1, 1 << 12, 1 << 17]),
    data=st.data(),
)
def test_masks_are_combined_as_in_torch(
    shown: list[tuple[int, int]],
    size: tuple[int, int],
    window: int,
    flip: bool,
    tapers: bool,
    queries: int,
    classes: int,
    block: int,
    data: st.DataObject,
) -> None:
    """For any sizes, windows, looks, masks, classes and size of the blocks."""
    step = data.draw(st.integers(max(1, window // 3), window)) if window else 0
    windows = _looks(shown, window, step, flip=flip, tapers=tapers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_masks, "_BLOCK", block)
        _compare(_seen(windows, queries=queries, classes=classes), size)


@pytest.mark.parametrize("classes", [2, 33, 171])
@pytest.mark.parametrize("size", [(97, 201), (30, 41)])
def test_larger_images_in_windows_are_combined_as_in_torch(
    classes: int, size: tuple[int, int]
) -> None:
    """Several blocks in a row, of several tiles, with and without classes that are left out."""
    windows = _looks([(96, 130), (60, 81)], 64, 40, flip=True, tapers=True)
    _compare(_seen(windows, queries=16, classes=classes), size)


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
def test_leaving_out_classes_that_cannot_win_changes_nothing(spread: float) -> None:
    """From nearly equal probabilities to ones that a single class has: the argmax of all."""
    rng = np.random.default_rng(1)
    powers = np.exp(spread * rng.standard_normal((12, 300), np.float32))
    classes = powers / powers.sum(axis=1, keepdims=True)
    y, x = np.meshgrid(np.linspace(-2, 2, 16), np.linspace(-9, 9, 90), indexing="ij")
    slopes = rng.standard_normal((3, 12), np.float32)[..., None, None]
    ramps = (slopes[0] + slopes[1] * x + slopes[2] * y).astype(np.float32)
    weights = np.exp(ramps - ramps.max(axis=0))
    weights /= weights.sum(axis=0)
    pruned, scores = ArrayRanking(classes, prune=True).best(weights)
    full, expected = ArrayRanking(classes, prune=False).best(weights)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    exact = np.tensordot(classes.T.astype(float), weights.astype(float), axes=1)
    two_best = np.sort(exact, axis=0)[-2:]
    is_clear = two_best[1] > two_best[0] * (1 + 1e-5)
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(pruned[is_clear], exact.argmax(axis=0)[is_clear])
    np.testing.assert_array_equal(full[is_clear], exact.argmax(axis=0)[is_clear])


@pytest.mark.parametrize("prune", [False, True])
def test_of_equal_classes_the_first_wins(prune: bool) -> None:
    """Classes 2 and 4 are one as 0 and 3 are: neither 3 nor 4 is found at any pixel."""
    rng = np.random.default_rng(0)
    classes = rng.dirichlet(np.ones(3), 8).astype(np.float32)[:, [0, 1, 2, 0, 2]]
    weights = rng.dirichlet(np.ones(8), (16, 40)).astype(np.float32).transpose(2, 0, 1)
    best, _ = ArrayRanking(classes, prune=prune).best(np.ascontiguousarray(weights))
    assert set(np.unique(best)) == {0, 1, 2}


def test_words_that_take_no_part_are_not_found() -> None:
    """The best of the others, with the probability that it has among all."""
    seen = _seen(_looks([(40, 60)], 24, 12), classes=50)
    scores = _all_scores(seen, (50, 70))
    takes_part = np.arange(50) % 3 > 0
    labels, probabilities = seen.best_words((50, 70), takes_part)
    scores[~takes_part] = 0
    np.testing.assert_allclose(probabilities, scores.max(axis=0), rtol=1e-5)
    assert takes_part[labels].all()


def test_some_words_have_the_scores_that_they_have_among_all() -> None:
    """In the order in which they are asked for."""
    seen = _seen(_looks([(20, 30)], tapers=True), classes=9)
    some = seen.word_scores((33, 21), np.array([7, 0]))
    np.testing.assert_allclose(some, _all_scores(seen, (33, 21))[[7, 0]], rtol=1e-6)


@pytest.mark.parametrize("far", [-60.0, -1000.0, 1000.0])
def test_masks_that_are_far_from_every_pixel_decide_nevertheless(far: float) -> None:
    """Where all sigmoids underflow, the nearest mask wins, without NaN; as torch tells."""
    window = Window(Box(0, 0, 8, 12), (8, 12))
    logits = np.random.default_rng(0).normal(far, 3, (4, 2, 3)).astype(np.float32)
    seen = SeenWindows([MaskArrays(logits, np.eye(4, dtype=np.float32), window, STRIDE)])
    scores = _all_scores(seen, (9, 13))
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)
    _compare(seen, (9, 13), atol=max(1e-6, abs(far) * 1e-7))  # the precision of such logits


_MEASURE = """
import json, resource, sys
import numpy as np
from sseg_core.inference.array_masks import MaskArrays, SeenWindows
from sseg_core.inference.windows import Box, Window

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
classes, height, width = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
cells = np.linspace(0, 1, 112)[:, None], np.linspace(0, 1, 150)
waves = [np.sin(a * cells[0] + b * cells[1] + c) for a, b, c in rng.normal(0, 9, (64, 3))]
powers = np.exp(rng.standard_normal((64, classes), np.float32))
window = Window(Box(0, 0, 448, 597), (448, 597))
shares = powers / powers.sum(axis=1, keepdims=True)
seen = SeenWindows([MaskArrays(6 * np.array(waves, np.float32), shares, window, 4)])
seen.best_words((64, 64))  # what is loaded only once
before = peak()
words, scores = seen.best_words((height, width))
answer = (words.nbytes + scores.nbytes) / 2**20
print(json.dumps([peak() - before - answer, len(np.unique(words))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("classes", [171, 1203])
def test_memory_grows_neither_with_the_photo_nor_with_the_classes(classes: int) -> None:
    """Twelve million pixels need less than 100 MB besides what is returned."""
    command = [sys.executable, "-c", _MEASURE, str(classes), "3000", "4000"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, found = json.loads(result.stdout)
    assert found > 10
    assert megabytes < 100
