"""Words and the classes that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from sseg_core.errors import ConfigError
from sseg_core.inference.vocabulary import Vocabulary


def test_a_class_is_asked_for_by_its_name_or_its_synonyms() -> None:
    """Background words come last and stand for no class."""
    vocabulary = Vocabulary.of(("tv", "cat"), {"tv": ("television", "tv monitor")}, ("sky",))
    assert vocabulary.words == ("television", "tv monitor", "cat", "sky")
    assert vocabulary.classes == (0, 0, 1, -1)
    assert vocabulary.class_names == ("tv", "cat")


def test_a_map_of_words_becomes_one_of_classes() -> None:
    """What the model itself left out stays out."""
    vocabulary = Vocabulary.of(("tv", "cat"), {"tv": ("television", "screen")}, ("sky",))
    words = np.array([[0, 1, 2, 3, -1, -2]])
    classes = vocabulary.class_map(words)
    assert classes.tolist() == [[0, 0, 1, -1, -1, -2]]
    assert classes.dtype == np.int16


def test_what_a_user_writes_is_parsed() -> None:
    """Names, synonyms with a name of their own and without, words for background."""
    vocabulary = Vocabulary.parse(("tv=television|tv monitor", "couch | sofa", "cat"), ["sky"])
    assert vocabulary.class_names == ("tv", "couch", "cat")
    assert vocabulary.words == ("television", "tv monitor", "couch", "sofa", "cat", "sky")
    assert vocabulary.classes == (0, 0, 1, 1, 2, -1)
    assert Vocabulary.parse("tiger, minion") == Vocabulary.of(("tiger", "minion"))


@pytest.mark.parametrize(
    ("classes", "background", "word"),
    [
        (("tv=television", "screen|television"), (), "television"),
        (("tv=a", "TV=b"), (), "TV"),
        (("cat", "dog"), ("Cat",), "Cat"),
        (("cat=", "dog"), (), "cat="),
        (("=cat",), (), "=cat"),
        (("a||b",), (), "a||b"),
        (("x" * 1001,), (), "1,001 characters"),
    ],
)
def test_words_that_are_no_words_are_refused(
    classes: tuple[str, ...], background: tuple[str, ...], word: str
) -> None:
    """Twice the same word, an empty one, one as long as a page: in one sentence that names it."""
    with pytest.raises(ConfigError) as caught:
        Vocabulary.parse(classes, background)
    assert word in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 200


def test_common_words_contrast_a_class() -> None:
    """But for those that it is asked for by."""
    vocabulary = Vocabulary.parse(("greenery=grass|Tree",)).contrasted()
    assert vocabulary.class_names == ("greenery",)
    assert vocabulary.classes[:2] == (0, 0)
    assert set(vocabulary.classes[2:]) == {-1}
    assert "sky" in vocabulary.words[2:]
    assert not {"grass", "tree"} & set(vocabulary.words[2:])


def test_the_probability_of_a_class_is_that_of_its_best_word() -> None:
    """Words for background count for none."""
    vocabulary = Vocabulary.parse(("a|b", "c"), ["d"])
    words = np.random.default_rng(0).random((4, 3, 5), np.float32)
    expected = np.stack([np.maximum(words[0], words[1]), words[2]])
    assert np.array_equal(vocabulary.of_classes(words), expected)
    plain = Vocabulary.parse(("a", "b"), ["d"])
    assert np.array_equal(plain.of_classes(words[:3]), words[:2])
