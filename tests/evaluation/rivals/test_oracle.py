"""Each segment of the oracle has the class of most of its pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.evaluation.benchmarks.toyworld import toyworld
from sseg_core.evaluation.examples import VOID, Example
from sseg_core.evaluation.rivals.oracle import Oracle, majority_labels, square_images


@pytest.mark.parametrize(("height", "width"), [(12, 20), (13, 7), (3, 2)])
def test_majority_equals_a_plain_loop(height: int, width: int) -> None:
    """Segments of any size against the truth: each takes its commonest label, void left out."""
    rng = np.random.default_rng(height)
    segments = rng.integers(0, 4, (4, 5)).astype(np.uint8)
    truth = rng.integers(-1, 3, (height, width)).astype(np.int16)
    truth[rng.random(truth.shape) < 0.2] = VOID
    result = majority_labels(segments, truth, 3)
    stretched = torch.nn.functional.interpolate(
        torch.from_numpy(segments)[None, None].float(), (height, width), mode="nearest-exact"
    )[0, 0].numpy()
    for segment in range(4):
        inside = stretched == segment
        votes = [int(((truth == c) & inside).sum()) for c in range(-1, 3)]
        expected = int(np.argmax(votes)) - 1 if sum(votes) else VOID
        assert (result[inside] == expected).all()


def test_perfect_segments_give_the_truth_back() -> None:
    """Segments that never mix classes reproduce every pixel that counts."""
    truth = np.array([[0, -1, 1], [2, 2, 1]], np.int16)
    segments = np.array([[7, 8, 3], [200, 200, 3]], np.uint8)
    assert np.array_equal(majority_labels(segments, truth, 3), truth)


def test_a_segment_of_void_pixels_has_no_class() -> None:
    """Where nothing counts there is no majority."""
    truth = np.full((2, 2), VOID, np.int16)
    assert (majority_labels(np.zeros((1, 1), np.uint8), truth, 3) == VOID).all()


def test_where_there_is_no_segment_there_is_no_class() -> None:
    """255 is what a generator answers where it could make nothing of the image."""
    truth = np.array([[0, 0, 1, 1]], np.int16)
    assert majority_labels(np.array([[255, 2]], np.uint8), truth, 2).tolist() == [
        [VOID, VOID, 1, 1]
    ]


def test_the_time_is_that_of_the_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amortised over all batches; the first call, which loads things, is not counted."""
    clock = [0.0]

    class Slow:
        def __init__(self, config: PseudomaskConfig, device: torch.device) -> None:
            self.warm = False

        def __call__(self, images: torch.Tensor, keys: list[str]) -> torch.Tensor:
            clock[0] += 0.25 * len(images) if self.warm else 100
            self.warm = True
            return torch.zeros(len(images), 4, 4, dtype=torch.uint8)

    def resized(*arguments: object) -> torch.Tensor:
        clock[0] += 7
        return square_images(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("sseg_core.evaluation.rivals.oracle.PseudoMaskGenerator", Slow)
    monkeypatch.setattr("sseg_core.evaluation.rivals.oracle.square_images", resized)
    monkeypatch.setattr("sseg_core.evaluation.rivals.oracle.time.perf_counter", lambda: clock[0])
    oracle = Oracle(PseudomaskConfig(image_size=32), 14, torch.device("cpu"))
    examples = list(toyworld(seed=0, size=32, count=5))
    oracle(examples[:3])
    oracle(examples[3:])
    assert oracle.milliseconds_per_image == pytest.approx(250)


def test_the_oracle_answers_in_the_size_of_each_image() -> None:
    """Images of different sizes go through together; every scene keeps most of its pixels."""
    config = PseudomaskConfig(features="lab", image_size=64, grid=16, masks=6)
    big, small = (next(iter(toyworld(seed=0, size=size, count=1))) for size in (80, 48))
    examples = [
        Example("a", big.image, big.truth),
        Example("b", small.image[:40], small.truth[:40]),
    ]
    oracle = Oracle(config, 14, torch.device("cpu"))
    for example, prediction in zip(examples, oracle(examples), strict=True):
        assert prediction.label_map.shape == example.truth.shape
        assert (prediction.label_map == example.truth).mean() > 0.6
