"""Each segment of the oracle has the class of most of its pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.evaluation.benchmarks import Example, toyworld
from sseg_core.evaluation.oracle import Oracle, majority_labels


@pytest.mark.parametrize(("height", "width"), [(12, 20), (13, 7), (3, 2)])
def test_majority_equals_a_plain_loop(height: int, width: int) -> None:
    """Segments of any size against the truth: each takes its commonest label, void left out."""
    rng = np.random.default_rng(height)
    segments = rng.integers(0, 4, (4, 5)).astype(np.uint8)
    truth = rng.integers(0, 3, (height, width)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    result = majority_labels(segments, truth, 3)
    stretched = torch.nn.functional.interpolate(
        torch.from_numpy(segments)[None, None].float(), (height, width), mode="nearest-exact"
    )[0, 0].numpy()
    for segment in range(4):
        inside = stretched == segment
        votes = [int(((truth == c) & inside).sum()) for c in range(3)]
        expected = int(np.argmax(votes)) if sum(votes) else -1
        assert (result[inside] == expected).all()


def test_perfect_segments_give_the_truth_back() -> None:
    """Segments that never mix classes reproduce every pixel that counts."""
    truth = np.array([[0, 0, 1], [2, 2, 1]], np.uint8)
    segments = np.array([[7, 7, 3], [200, 200, 3]], np.uint8)
    assert np.array_equal(majority_labels(segments, truth, 3), truth)


def test_a_segment_of_void_pixels_has_no_class() -> None:
    """Where nothing counts there is no majority."""
    truth = np.full((2, 2), 255, np.uint8)
    assert (majority_labels(np.zeros((1, 1), np.uint8), truth, 3) == -1).all()


def test_the_oracle_answers_in_the_size_of_each_image() -> None:
    """Images of different sizes go through together; every scene keeps most of its pixels."""
    config = PseudomaskConfig(image_size=64, grid=16, masks=6)
    big, small = (next(iter(toyworld(seed=0, size=size, count=1))) for size in (80, 48))
    examples = [
        Example("a", big.image, big.truth),
        Example("b", small.image[:40], small.truth[:40]),
    ]
    oracle = Oracle(config, 14, torch.device("cpu"))
    for example, prediction in zip(examples, oracle(examples), strict=True):
        assert prediction.shape == example.truth.shape
        assert (prediction == example.truth).mean() > 0.6
