"""Nouns and verbs of captions."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from textblob.en.taggers import PatternTagger

from sseg_core.data import words
from sseg_core.data.words import nouns_and_verbs

SENTENCES = [
    "a brown dog is running along the beach with a red frisbee in its mouth .",
    "two people are standing near a small house and looking at the bright sun .",
    "the young woman who wears a yellow hat quickly climbs up a very steep hill .",
    "several children have played football on green grass under a cloudy sky .",
    "an old train passes through the tunnel while birds fly above it .",
]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red house stands beside a tall tree.", "house stands tree"),
        ("A man is wearing a hat", "man wearing hat"),
        ("Two dogs have been running; they do it well", "dogs running"),
        ("The dog's ball isn't in the girl\u2019s hand", "dog ball girl hand"),
        ("They're playing, he'd watch", "playing watch"),
        ("Black dog, BLACK DOG", "dog DOG"),
        ("A MAN IS RUNNING IN THE PARK", "MAN RUNNING PARK"),
        ("a boy in a t-shirt and a T-Shirt", "boy t-shirt T-Shirt"),
        ("cat/dog on a mat...", "cat dog mat"),
        ("salt &amp; pepper", "salt pepper"),
        ("a frisbee, a skateboarder and a selfie", "frisbee skateboarder selfie"),
        ("3 cats 2024", "cats"),
        ("\u4e00\u53ea\u72d7", "\u4e00\u53ea\u72d7"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \U0001f436", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    ],
)  # fmt: skip
def test_nouns_and_verbs_stay_as_written_and_in_order(caption: str, expected: str) -> None:
    """Other words, auxiliaries, endings after an apostrophe and punctuation go."""
    assert nouns_and_verbs(caption) == expected


@pytest.mark.parametrize("caption", ["", " ", "...", "\U0001f436", "It is so very beautiful", "\0"])
def test_a_caption_without_nouns_and_verbs_stays_whole(caption: str) -> None:
    """A text is never made empty."""
    assert nouns_and_verbs(caption) == caption


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_tags_are_those_of_the_tagger_on_the_whole_sentence(sentence: str) -> None:
    """Tagging word by word loses nothing: PatternTagger uses no context."""
    auxiliaries = {"is", "are", "have"}
    tagged = PatternTagger().tag(sentence)
    expected = [w for w, tag in tagged if tag[:2] in {"NN", "VB"} and w not in auxiliaries]
    assert nouns_and_verbs(sentence).split() == expected


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts anew when full, keeps nothing long, and never changes the result."""
    monkeypatch.setattr(words, "_REMEMBERED", 4)
    words._KEPT_WORDS.clear()
    for _ in range(2):
        assert nouns_and_verbs(SENTENCES[0]) == "dog running beach frisbee mouth"
        assert nouns_and_verbs("dog" * 20) == "dog" * 20
        assert len(words._KEPT_WORDS) <= 4
    assert "dog" * 20 not in words._KEPT_WORDS


@pytest.mark.parametrize("piece", ["dog ", "ab", "a-", "a'", "&", "&amp;", "1", "\u00e9", "\u0301"])
def test_ten_thousand_characters_are_taken(piece: str) -> None:
    """A caption of any length gives words that stood in it."""
    caption = (piece * 10_000)[:10_000]
    kept = nouns_and_verbs(caption)
    assert kept
    assert set(kept) <= set(caption)


def test_it_travels_to_loader_workers() -> None:
    """It pickles by name, without its memory."""
    nouns_and_verbs(SENTENCES[0])
    assert len(pickle.dumps(nouns_and_verbs)) < 100
    assert pickle.loads(pickle.dumps(nouns_and_verbs)) is nouns_and_verbs


def test_it_works_without_the_corpora_of_nltk() -> None:
    """With no NLTK data anywhere nouns and verbs are found, in silence; import alone is light."""
    code = (
        "import sys\n"
        "from sseg_core.data.words import nouns_and_verbs\n"
        "print('textblob' in sys.modules)\n"
        "import nltk\n"
        "nltk.data.path.clear()\n"
        "print(nouns_and_verbs('The dog is running.'))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout.splitlines(), result.stderr) == (["False", "dog running"], "")


@pytest.mark.parametrize("word", ["t-shirt", "dirt-bikes"])
def test_the_last_part_of_an_unknown_hyphenated_word_decides(word: str) -> None:
    """The tagger calls them adjectives; what they name can be seen."""
    assert PatternTagger().tag(word, tokenize=False)[0][1] == "JJ"
    assert nouns_and_verbs(f"a {word} thing") == f"{word} thing"
