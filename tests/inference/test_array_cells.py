"""NumPy alone makes of a student's logits what torch makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sseg_core.inference import array_cells
from sseg_core.inference.array_cells import SeenCells
from sseg_core.inference.array_labels import SeenArrays
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.score_maps import label_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Window, window_boxes
from sseg_core.structures import BACKGROUND

CELL = 4
Sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


def _seen(
    shown: tuple[int, int],
    window: int,
    step: int,
    *,
    classes: int,
    flip: bool = False,
    tapers: bool = False,
) -> SeenCells:
    """Random logits of windows over an image, once or mirrored as well."""
    windows = [
        Window(
            replace(box, left=shown[1] - box.right) if mirrored else box,
            shown,
            mirrored,
            int(mirrored),
            tapers,
        )
        for mirrored in ((False, True) if flip else (False,))
        for box in window_boxes(shown, window, step)
    ]
    rng = np.random.default_rng(0)
    shapes = [(-(-w.box.height // CELL), -(-w.box.width // CELL), classes) for w in windows]
    logits = [3 * rng.standard_normal(shape, np.float32) for shape in shapes]
    return SeenCells(logits, windows, CELL)


def _torch(seen: SeenCells) -> CellMaps:
    return CellMaps([torch.from_numpy(own.copy()) for own in seen.logits], seen.windows, CELL)


def _scores(seen: SeenCells, size: tuple[int, int]) -> np.ndarray:
    """Return [C, H, W] torch's probabilities."""
    scores = np.empty((seen.logits[0].shape[2], *size), np.float32)
    for box, block in _torch(seen).blocks(size, lambda logits: logits.softmax(dim=2)):
        scores[:, box.top : box.bottom, box.left : box.right] = block.permute(2, 0, 1).numpy()
    return scores


@settings(max_examples=40, deadline=None)
@given(
    shown=Sizes,
    size=Sizes,
    window=st.integers(0, 30),
    flip=st.booleans(),
    tapers=st.booleans(),
    classes=st.sampled_from([1, 2, 7, 60]),
    block=st.sampled_from([1 << 10, 1 << 17]),
    data=st.data(),
)
def test_logits_become_probabilities_as_in_torch(
    shown: tuple[int, int],
    size: tuple[int, int],
    window: int,
    flip: bool,
    tapers: bool,
    classes: int,
    block: int,
    data: st.DataObject,
) -> None:
    """For any sizes, windows, looks, classes and size of the blocks."""
    step = data.draw(st.integers(max(1, window // 3), window)) if window else 0
    seen = _seen(shown, window, step, classes=classes, flip=flip, tapers=tapers)
    expected = _scores(seen, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_cells, "_BLOCK", block)
        scores = seen.word_scores(size, np.arange(classes))
        labels, probabilities = seen.best_words(size)
    assert scores.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, scores.argmax(axis=0))
    np.testing.assert_array_equal(probabilities, scores.max(axis=0))


@pytest.mark.parametrize("min_share", [0.0, 0.1, 0.3, 0.99])
@pytest.mark.parametrize("background", [(), ("rest",)])
def test_words_become_labels_as_in_torch(min_share: float, background: tuple[str, ...]) -> None:
    """Synonyms, words for background, and classes that are too small to be believed."""
    seen = _seen((50, 70), 40, 20, classes=5 + len(background), tapers=True)
    vocabulary = Vocabulary.of(
        ["a", "b", "c"], {"a": ["a1", "a2"], "c": ["c1", "c2"]}, background=background
    )
    image = np.zeros((64, 91, 3), np.uint8)
    blocks = _torch(seen)
    expected = label_pixels(
        lambda size: blocks.blocks(size, lambda logits: logits.softmax(dim=2)),
        vocabulary,
        image,
        View(min_share=min_share),
    )
    result = SeenArrays(seen, vocabulary, min_share).label(image)
    assert result.label_map.dtype == np.int16
    np.testing.assert_array_equal(result.label_map, expected.label_map)
    np.testing.assert_allclose(result.confidence, expected.confidence, rtol=1e-5, atol=1e-6)
    if min_share == 0.99:  # of no class there is enough
        assert (result.label_map == BACKGROUND).all()


def test_probabilities_of_classes_are_those_of_their_best_words() -> None:
    """The maximum over synonyms; words for background are left out."""
    seen = _seen((30, 40), 0, 0, classes=4)
    vocabulary = Vocabulary.of(["a", "b"], {"a": ["a1", "a2"]}, background=["sky"])
    result = SeenArrays(seen, vocabulary, 0.0).class_probabilities((33, 50))
    scores = _scores(seen, (33, 50))
    expected = np.stack([scores[:2].max(axis=0), scores[2]])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
