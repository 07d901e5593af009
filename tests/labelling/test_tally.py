"""Counts of labels, against counting everything at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sseg_core.labelling.tally import Tally
from sseg_core.labelling.teacher import Labels

NAMES = ("cat", "dog", "cow")


def _labels(seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    label_map = rng.integers(-2, 2, (7, 5 + seed)).astype(np.int16)
    confidence = np.where(label_map == -2, 0, rng.random(label_map.shape)).astype(np.float32)
    return Labels(label_map, confidence)


def _tally(*many: Labels) -> Tally:
    tally = Tally()
    for labels in many:
        tally.count(labels)
    return tally


def test_shards_add_up_to_the_whole() -> None:
    """Notes of parts, read back from JSON and added, say what one pass over all images says."""
    many = [_labels(seed) for seed in range(5)]
    whole, parts = _tally(*many), [_tally(*many[:2]), _tally(*many[2:])]
    parts[0].skipped["corrupt"] += 2
    total = Tally()
    for part in parts:
        total.add(Tally.from_note(json.loads(json.dumps(part.note()))))
    assert total.note() == {**whole.note(), "skipped": {"corrupt": 2}}


def test_shares_confidence_and_what_is_kept() -> None:
    """In percent of the labelled pixels; confidence as it is kept, in 256 levels."""
    many = [_labels(seed) for seed in range(5)]
    tally = _tally(*many)
    labels = np.concatenate([one.label_map.ravel() for one in many])
    sure = np.concatenate([one.confidence.ravel() for one in many if one.confidence is not None])
    sure = np.round(sure[labels != -2] * 255) / 255
    labels = labels[labels != -2]
    shares = tally.shares(NAMES, has_background=True)
    assert list(shares) == ["background", *NAMES]
    for name, label in (("background", -1), ("cat", 0), ("dog", 1), ("cow", 2)):
        assert shares[name] == pytest.approx(100 * (labels == label).mean())
    assert tally.never(NAMES) == ["cow"]
    assert tally.mean_confidence() == pytest.approx(sure.mean())
    kept = tally.kept_at()
    assert list(kept) == ["0.0", *(f"0.{tenth}" for tenth in range(1, 10)), "0.95"]
    for least, share in kept.items():
        assert share == pytest.approx(100 * (sure >= float(least)).mean())


def test_without_confidence_there_is_nothing_to_keep_by() -> None:
    """No mean, no shares; and no division where no pixel is labelled."""
    tally = _tally(Labels(np.full((2, 3), -2, np.int16), None))
    assert (tally.mean_confidence(), tally.kept_at()) == (None, {})
    assert tally.shares(NAMES, has_background=False) == dict.fromkeys(NAMES, 0)
