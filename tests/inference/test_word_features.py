"""Words in templates, encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sseg_core.inference.word_features import WordFeatures


class Encoder:
    """Texts are ids of their hashes; ids have random unit features."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.rows: list[int] = []

    def tokenizer(self, texts: Sequence[str]) -> np.ndarray:
        self.texts.extend(texts)
        return np.array([[sum(map(ord, text)) % 1000, 1000] for text in texts])

    def encode(self, ids: np.ndarray) -> np.ndarray:
        self.rows.append(len(ids))
        return _features(ids)


def _features(ids: np.ndarray) -> np.ndarray:
    table = np.random.default_rng(0).standard_normal((1001, 8)).astype(np.float32)
    rows: np.ndarray = table[ids[:, 0]]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_templates_are_averaged_after_normalisation(encoder: Encoder) -> None:
    """The feature of a word is the normalised mean of the unit features of its texts."""
    templates = ("{}", "a photo of a {}.", "art of the {}.")
    features = WordFeatures(encoder.encode, encoder.tokenizer).of(("cat", "owl"), templates)
    assert encoder.texts == [
        "cat", "a photo of a cat.", "art of the cat.", "owl", "a photo of an owl.",
        "art of the owl.",
    ]  # fmt: skip
    unit = torch.from_numpy(_features(encoder.tokenizer(encoder.texts[:6])))
    expected = F.normalize(unit.view(2, 3, 8).mean(dim=1), dim=-1)
    torch.testing.assert_close(torch.from_numpy(features), expected)


def test_one_template_leaves_the_features_as_they_are(encoder: Encoder) -> None:
    """Not a bit differs from what the encoder returns."""
    features = WordFeatures(encoder.encode, encoder.tokenizer).of(("cat", "dog"), ("{}",))
    assert np.array_equal(features, _features(encoder.tokenizer(["cat", "dog"])))


def test_articles_can_be_left_as_they_are(encoder: Encoder) -> None:
    """The protocols of others write "a owl"."""
    WordFeatures(encoder.encode, encoder.tokenizer).of(("owl",), ("a {}",), articles=False)
    assert encoder.texts == ["a owl"]


def test_a_thousand_words_are_encoded_in_batches(encoder: Encoder) -> None:
    """1203 words with two templates are never more than 256 texts at a time."""
    words = tuple(f"word {index}" for index in range(1203))
    features = WordFeatures(encoder.encode, encoder.tokenizer).of(words, ("{}", "a {}"))
    assert features.shape == (1203, 8)
    assert max(encoder.rows) <= 256
    assert sum(encoder.rows) == 2406


def test_words_that_look_alike_to_the_encoder_keep_their_places(encoder: Encoder) -> None:
    """The same word twice has two equal rows, with the disk and without."""
    for identity in (None, "digest"):
        words = WordFeatures(encoder.encode, encoder.tokenizer, identity)
        features = words.of(("cat", "dog", "cat"), ("{}", "the {}"))
        assert np.array_equal(features[0], features[2])
        assert not np.array_equal(features[0], features[1])


def test_another_run_encodes_only_what_is_new(encoder: Encoder) -> None:
    """With the weights' digest, features come from the disk, by word and templates."""
    first = WordFeatures(encoder.encode, encoder.tokenizer, "digest")
    expected = first.of(("cat", "dog"), ("{}", "a {}"))
    encoder.texts.clear()
    second = WordFeatures(encoder.encode, encoder.tokenizer, "digest")
    features = second.of(("dog", "owl", "cat"), ("{}", "a {}"))
    assert encoder.texts == ["owl", "an owl"]
    assert np.array_equal(features[[2, 0]], expected)
    second.of(("cat",), ("{}",))
    assert encoder.texts == ["owl", "an owl", "cat"]


def test_an_encoder_that_learns_keeps_nothing_on_disk(encoder: Encoder) -> None:
    """Without a digest every new object encodes again; the same one does not."""
    for _ in range(2):
        words = WordFeatures(encoder.encode, encoder.tokenizer)
        for _ in range(3):
            words.of(("cat",), ("{}",))
    assert encoder.texts == ["cat", "cat"]
