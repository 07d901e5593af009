"""Words and the classes that they stand for."""

from __future__ import annotations

import numpy as np

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
