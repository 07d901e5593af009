"""Classes with few pixels take no part."""

from __future__ import annotations

import pytest
import torch

from sseg_core.inference.combine import best_of_windows, class_scores
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.small_classes import without_small
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Window, window_boxes

SIZE = (40, 56)


@pytest.mark.parametrize("min_share", [0.01, 0.1, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_sclip_does_with_all_scores(min_share: float, seed: int) -> None:
    """As its code: class scores are the maximum over synonyms, small classes' are set to 0."""
    generator = torch.Generator().manual_seed(seed)
    windows = [
        WindowMasks(
            4 * torch.randn(6, 6, 6, generator=generator),
            (4 * torch.randn(6, 9, generator=generator)).softmax(dim=-1),
            Window(box, (24, 32)),
            4,
        )
        for box in window_boxes((24, 32), 24, 8)
    ]
    # Classes 0 to 3, the second with three words, and two words for background.
    vocabulary = Vocabulary(tuple("abcdefghi"), (0, 1, 1, 1, 2, 3, 3, -1, -1), ("a", "b", "e", "f"))
    best = best_of_windows(windows, SIZE)
    result = without_small(best, windows, vocabulary, min_share)

    scores_W = class_scores(windows, SIZE)
    words = {0: [0], 1: [1, 2, 3], 2: [4], 3: [5, 6]}
    background = scores_W[[7, 8]].amax(0)
    scores = torch.stack([background, *(scores_W[words[c]].amax(0) for c in range(4))])
    won = torch.nn.functional.one_hot(scores.argmax(0), 5)[..., 1:].sum((0, 1))
    scores[1:] *= (won > min_share * won.sum())[:, None, None]
    expected = scores.argmax(0) - 1
    labels = vocabulary.class_map(result.classes.numpy())
    assert labels.tolist() == expected.tolist()
    torch.testing.assert_close(result.probabilities, scores.amax(0))
