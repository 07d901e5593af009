"""What is asked of a network with fixed classes is found among them, or refused."""

from __future__ import annotations

import pytest

from sseg_core.errors import ConfigError
from sseg_core.inference.known_classes import KnownClasses
from sseg_core.inference.vocabulary import Vocabulary

VOC = KnownClasses(
    ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "caf\u00e9"),
    name="plus:v1",
    teacher="demo:v1",
)


def test_classes_are_found_by_name_or_else_by_a_word() -> None:
    """In any order; a name comes before words, and letters count, not how they are written."""
    synonyms = {
        "airplane": ("plane", "aeroplane"),
        "cat": ("bird",),
        "restaurant": ("Cafe\u0301",),
    }
    vocabulary = Vocabulary.of(["airplane", "cat", "BUS", "restaurant"], synonyms, ["tiger"])
    assert VOC.find(vocabulary) == (0, 7, 5, 9)
    assert VOC.find(Vocabulary.of(["bus"])) == (5,)


def test_what_it_was_not_taught_is_named_with_the_way_out() -> None:
    """The first such class; its teacher, and some of its own classes."""
    with pytest.raises(ConfigError) as caught:
        VOC.find(Vocabulary.of(["bus", "tiger", "minion"]))
    assert caught.value.message == "plus:v1 knows 10 classes, and 'tiger' is none of them."
    assert caught.value.hint == (
        "Its teacher demo:v1 takes any words: --model demo:v1. Or choose among aeroplane, "
        "bicycle, bird, boat, bottle, bus, car, cat, ..."
    )


def test_a_near_miss_is_named() -> None:
    """Of the name, or of one of the words."""
    for vocabulary in (
        Vocabulary.of(["aeroplanes"]),
        Vocabulary.of(["jet"], {"jet": ("flyer", "aeroplan")}),
    ):
        with pytest.raises(ConfigError) as caught:
            VOC.find(vocabulary)
        assert caught.value.hint.startswith("Did you mean 'aeroplane'? Its teacher demo:v1")


def test_without_a_teacher_there_are_its_classes() -> None:
    """All of them where they are few."""
    with pytest.raises(ConfigError) as caught:
        KnownClasses(("cat",), name="x:v1").find(Vocabulary.of(["tiger"]))
    assert str(caught.value) == (
        "x:v1 knows 1 class, and 'tiger' is none of them. Choose among cat."
    )


def test_two_classes_that_are_one_to_it_are_refused() -> None:
    """They would share the pixels by chance."""
    vocabulary = Vocabulary.of(["cat", "kitten"], {"kitten": ("kitten", "Cat")})
    with pytest.raises(ConfigError, match=r"'cat' and 'kitten' are one class to plus:v1: 'cat'\."):
        VOC.find(vocabulary)


def test_names_of_strangers_are_harmless() -> None:
    """Control characters in a question or in a manifest do not reach the terminal."""
    known = KnownClasses(("c\x1b[31mat",), teacher="te\nacher")
    with pytest.raises(ConfigError) as caught:
        known.find(Vocabulary.of(["ti\x07ger"]))
    assert str(caught.value).isprintable()
