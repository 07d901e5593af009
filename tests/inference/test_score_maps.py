"""From scores to labels: synonyms, words for background, small classes, ties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sseg_core.inference.prediction import Prediction
from sseg_core.inference.score_maps import ScoreBlocks, label_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box

PETS = Vocabulary.of(
    ("cat", "dog", "bird"), synonyms={"dog": ("dog", "puppy")}, background=("sky", "wall")
)


def _blocks(scores_WHW: Tensor, asked: list[tuple[int, int]] | None = None) -> ScoreBlocks:
    """Return scores of one size in blocks; notes the sizes that are asked for."""

    def blocks(size: tuple[int, int]) -> Iterator[tuple[Box, Tensor]]:
        assert size == scores_WHW.shape[1:]
        if asked is not None:
            asked.append(size)
        for top in range(0, size[0], 2):
            for left in range(0, size[1], 30):
                block = scores_WHW[:, top : top + 2, left : left + 30].permute(1, 2, 0)
                yield Box(top, left, *block.shape[:2]), block

    return blocks


def _labels(scores_WHW: Tensor, vocabulary: Vocabulary = PETS, **options: Any) -> Prediction:
    """Label pixels whose rows come two at a time."""
    image = np.zeros((*scores_WHW.shape[1:], 3), np.uint8)
    return label_pixels(_blocks(scores_WHW), vocabulary, image, View(**options))


def _by_class(scores_WHW: Tensor, vocabulary: Vocabulary, min_share: float) -> Prediction:
    """Return the same by the class scores of SCLIP's code, background first."""
    classes = np.array(vocabulary.classes)
    scores = scores_WHW.numpy()
    H, W = scores.shape[1:]
    by_class = np.zeros((len(vocabulary.class_names) + 1, H, W), np.float32)
    for label in range(-1, len(vocabulary.class_names)):
        if (classes == label).any():
            by_class[label + 1] = scores[classes == label].max(axis=0)
    if min_share > 0:
        counts = np.bincount(by_class.argmax(0).ravel(), minlength=len(by_class))[1:]
        by_class[1:] *= (counts > min_share * counts.sum())[:, None, None]
    best = by_class.argmax(0) - 1
    return Prediction(best.astype(np.int16), by_class.max(0))


def test_a_pixel_gets_the_class_of_its_best_word() -> None:
    """A synonym counts for its class, a word for background for none; the first of equals wins."""
    scores = torch.tensor(
        [
            [[0.5, 0.1, 0.2, 0.3]],  # cat
            [[0.1, 0.1, 0.2, 0.3]],  # dog
            [[0.2, 0.6, 0.2, 0.0]],  # puppy
            [[0.1, 0.1, 0.1, 0.3]],  # bird
            [[0.1, 0.1, 0.3, 0.1]],  # sky
            [[0.0, 0.0, 0.0, 0.0]],  # wall
        ]
    )
    prediction = _labels(scores)
    assert prediction.label_map.tolist() == [[0, 1, -1, 0]]
    assert prediction.label_map.dtype == np.int16
    assert prediction.confidence is not None
    np.testing.assert_allclose(prediction.confidence, [[0.5, 0.6, 0.3, 0.3]])


def test_a_single_word_takes_every_pixel() -> None:
    """With a probability of 1; thresholds cannot tell anything then."""
    prediction = _labels(torch.ones(1, 3, 4), Vocabulary.of(("cat",)))
    assert (prediction.label_map == 0).all()
    assert prediction.confidence is not None
    assert (prediction.confidence == 1).all()


def test_pixels_without_any_score_are_background() -> None:
    """Such as those of no segment."""
    assert (_labels(torch.zeros(6, 2, 2)).label_map == -1).all()


def test_small_classes_give_their_pixels_to_the_others() -> None:
    """Background does not count for the share; a class of exactly the share is small."""
    scores = torch.full((6, 1, 10), 0.01)
    scores[0, 0, :6] = 0.5  # cat: 6 of 8 pixels
    scores[1, 0, 6:8] = 0.4  # dog: 2 of 8
    scores[0, 0, 6] = 0.3
    scores[4, 0, 7] = 0.2  # sky, next to the dog
    scores[5, 0, 8:] = 0.9  # wall
    kept = _labels(scores, min_share=0.2)
    assert kept.label_map.tolist() == [[0] * 6 + [1] * 2 + [-1] * 2]
    dropped = _labels(scores, min_share=0.25)
    assert dropped.label_map.tolist() == [[0] * 7 + [-1] * 3]
    assert dropped.confidence is not None
    np.testing.assert_allclose(dropped.confidence[0, 6:8], [0.3, 0.2])
    none = _labels(scores, min_share=0.8)
    assert (none.label_map == -1).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), min_share=st.sampled_from([0.0, 0.1, 0.3, 0.6]))
def test_words_lead_to_the_same_labels_as_class_scores(seed: int, min_share: float) -> None:
    """The best class of SCLIP's code, which takes the maximum over a class's words first."""
    generator = torch.Generator().manual_seed(seed)
    scores = (4 * torch.randn(6, 5, 7, generator=generator)).softmax(dim=0)
    expected = _by_class(scores, PETS, min_share)
    prediction = _labels(scores, min_share=min_share)
    assert prediction.confidence is not None
    np.testing.assert_array_equal(prediction.label_map, expected.label_map)
    np.testing.assert_array_equal(prediction.confidence, expected.confidence)


def test_scores_follow_the_colours_on_a_coarse_grid() -> None:
    """A noisy pixel takes the word of its side of an edge, and the scores still sum to 1."""
    image = np.zeros((112, 140, 3), np.uint8)
    image[:, 70:] = 255
    truth = np.zeros((112, 140), np.int16)
    truth[:, 70:] = 1
    noise = torch.rand(112, 140, generator=torch.Generator().manual_seed(0)) < 0.2
    wins = torch.from_numpy(truth.astype(bool)) ^ noise
    scores_WHW = torch.stack([torch.where(wins, 0.3, 0.7), torch.where(wins, 0.7, 0.3)])
    vocabulary = Vocabulary.of(("black", "white"))
    asked: list[tuple[int, int]] = []
    scores = _blocks(scores_WHW, asked)
    plain = label_pixels(scores, vocabulary, image, View())
    refined = label_pixels(scores, vocabulary, image, View(refine="pamr"))
    assert (plain.label_map != truth).mean() > 0.15
    assert (refined.label_map != truth).mean() < 0.005
    assert asked == [(112, 140), (112, 140)]
    large = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
    stretched = label_pixels(scores, vocabulary, large, View(refine="pamr"))
    assert stretched.label_map.shape == (336, 420)
    assert (stretched.label_map[::3, ::3] == refined.label_map).mean() > 0.99
    assert stretched.confidence is not None
    assert 0.5 <= stretched.confidence.min() <= stretched.confidence.max() <= 0.7 + 1e-5
