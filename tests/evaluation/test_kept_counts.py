"""An interrupted evaluation goes on from what it had counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.evaluation import kept_counts
from sseg_core.evaluation.evaluator import Evaluation, Rule, evaluate
from sseg_core.evaluation.examples import Benchmark, Example, LabelMap
from sseg_core.evaluation.kept_counts import KeptCounts
from sseg_core.evaluation.rivals.rival import Prediction

LABELS = ("background", "cat", "dog")
damaged: set[str] = set()


def _image(key: str) -> RGBImage:
    if key in damaged:
        raise ImageError("corrupt", "is corrupt", key)
    return np.stack([_truth(key).astype(np.uint8)] * 3, axis=-1)


def _truth(key: str) -> LabelMap:
    return np.random.default_rng(int(key)).integers(-2, 2, (5, 7)).astype(np.int16)


BENCHMARK = Benchmark("b", LABELS[1:], True, tuple("123456"), _image, _truth)


class Guesser:
    """Answers as the key says; stops before the last of so many images."""

    def __init__(self, stop_before: str = "") -> None:
        self.seen: list[str] = []
        self._stop_before = stop_before

    def __call__(self, examples: Sequence[Example]) -> list[Prediction]:
        answers = []
        for example in examples:
            if example.key == self._stop_before:
                raise KeyboardInterrupt
            self.seen.append(example.key)
            rng = np.random.default_rng(100 + int(example.key))
            labels = rng.integers(-1, 2, example.truth.shape).astype(np.int16)
            answers.append(Prediction(labels, rng.random(labels.shape, dtype=np.float32)))
        return answers


def _run(guesser: Guesser, kept: KeptCounts | None, *, sweep: bool = True) -> Evaluation:
    start = kept.load(LABELS) if kept else None
    rule = Rule(threshold=0.3, sweep=sweep)
    return evaluate(BENCHMARK, guesser, rule, batch_size=2, start=start, keep=kept)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are written after every batch."""
    monkeypatch.setattr(kept_counts, "EVERY_S", 0.0)
    damaged.clear()


@pytest.mark.parametrize("sweep", [True, False])
def test_a_resumed_evaluation_equals_an_uninterrupted_one(tmp_path: Path, sweep: bool) -> None:
    """Nothing is scored twice and nothing is missing."""
    whole = _run(Guesser(), None, sweep=sweep)
    with pytest.raises(KeyboardInterrupt):
        _run(Guesser(stop_before="4"), KeptCounts(tmp_path / "counts.npz"), sweep=sweep)
    second = Guesser()
    resumed = _run(second, KeptCounts(tmp_path / "counts.npz"), sweep=sweep)
    assert second.seen == list("3456")
    assert np.array_equal(resumed.confusion.counts, whole.confusion.counts)
    assert resumed.per_image.keys == whole.per_image.keys
    assert resumed.per_image.interval() == whole.per_image.interval()
    if sweep:
        assert resumed.sweep is not None
        assert whole.sweep is not None
        assert np.array_equal(resumed.sweep.curve()[1], whole.sweep.curve()[1])
    else:
        assert resumed.sweep is None


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    """It may have been mended meanwhile."""
    damaged.add("1")
    with pytest.raises(KeyboardInterrupt):
        _run(Guesser(stop_before="6"), KeptCounts(tmp_path / "counts.npz"))
    damaged.clear()
    resumed = _run(Guesser(), KeptCounts(tmp_path / "counts.npz"))
    assert set(resumed.per_image.keys) == set("123456")
    assert not resumed.skipped


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_cannot_be_used_is_not_used(tmp_path: Path, content: bytes | None) -> None:
    """A file cut short by a full disk, or of other labels, is as none."""
    path = tmp_path / "counts.npz"
    if content is None:
        _run(Guesser(), KeptCounts(path))
        assert KeptCounts(path).load(LABELS) is not None
        assert KeptCounts(path).load(LABELS[1:]) is None
    else:
        path.write_bytes(content)
        assert KeptCounts(path).load(LABELS) is None


def test_a_disk_that_is_full_does_not_end_an_evaluation(tmp_path: Path) -> None:
    """Keeping counts is a convenience; here its folder is gone."""
    result = _run(Guesser(), KeptCounts(tmp_path / "gone" / "counts.npz"))
    assert len(result.per_image) == 6
