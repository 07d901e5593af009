"""The words of a caption that can be seen: nouns and verbs (S-Seg App. A.1, after GroupViT).

Tags come from TextBlob's `PatternTagger`, whose lexicon is bundled. It tags a word by itself
(lexicon, then endings), so each word is tagged once and remembered.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping

import regex

# A word: letters with their marks, and digits, joined by hyphens and apostrophes.
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['\u2019-][\p{L}\p{M}\p{N}]+)*")
# "dog's", "they're": the word before the apostrophe counts. "isn't", "can't": an auxiliary.
_ENDING = regex.compile(r"['\u2019](?:s|d|m|ll|re|ve)$", regex.IGNORECASE)
_NEGATED = regex.compile(r"n['\u2019]t$", regex.IGNORECASE)

# Penn Treebank tags, of which the first two letters tell the part of speech.
_KEPT_TAGS = ("NN", "VB")

# Forms of be, have and do, nearly always auxiliaries in a caption ("is running", "has a hat"):
# they would be in every second text and tell nothing apart (our choice, not in the paper).
_AUXILIARIES = (
    {"am", "is", "are", "was", "were", "be", "been", "being"}
    | {"have", "has", "had", "having"}
    | {"do", "does", "did", "doing", "done"}
)

# Bounds of the memory of words (our choice).
_REMEMBERED = 1 << 17
_REMEMBERED_LENGTH = 40


def nouns_and_verbs(caption: str) -> str:
    """Return the nouns and verbs of `caption`, as they are written, in order, between blanks.

    Possessives lose their ending ("dog's" gives "dog"). A caption in which nothing is left is
    returned whole: a text without words would be a negative for everything.
    """
    # "&amp;" is no noun.
    text = html.unescape(caption) if "&" in caption else caption
    kept = " ".join(filter(None, map(_KEPT_WORDS.__getitem__, text.split())))
    return kept or caption


class _KeptWords(dict[str, str]):
    """Maps a stretch of text without blanks to its nouns and verbs; fills itself, up to a limit."""

    def __missing__(self, stretch: str) -> str:
        kept = " ".join(filter(None, map(_kept_part, _WORD.findall(stretch))))
        if len(stretch) <= _REMEMBERED_LENGTH:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[stretch] = kept
        return kept


_KEPT_WORDS = _KeptWords()


def _kept_part(word: str) -> str:
    """Return `word`, less a possessive or contracted ending, if it is a noun or verb, else "".

    It has to be one as written and in lower case: "Black" that starts a caption is a colour,
    though the lexicon knows a person of that name, and "american" would pass as an unknown noun.
    """
    stem = _ENDING.sub("", word)
    if stem.lower() in _AUXILIARIES or _NEGATED.search(stem):
        return ""
    tags = (_tag(stem), _tag(stem.lower()))
    return stem if all(tag.startswith(_KEPT_TAGS) for tag in tags) else ""


def _tag(word: str) -> str:
    """Return the Penn Treebank tag of one word.

    The tagger takes every unknown word with a hyphen for an adjective; its last part says more:
    a "t-shirt" is a shirt, "dirt-bikes" are bikes (our choice, not in the paper).
    """
    tag, lexicon = _tagger()
    if "-" in word and word not in lexicon:
        word = word.rpartition("-")[2]
    return tag(word)


@functools.cache
def _tagger() -> tuple[Callable[[str], str], Mapping[str, str]]:
    """Return TextBlob's tagger for one word, and its lexicon.

    Imported when the first word needs it: TextBlob takes a second, for NLTK, whose corpora and
    tokenizers (which would have to be downloaded) are not used here.
    """
    from textblob.en import lexicon
    from textblob.en.taggers import PatternTagger

    tagged: Callable[..., list[tuple[str, str]]] = PatternTagger().tag
    return lambda word: tagged(word, tokenize=False)[0][1], lexicon
