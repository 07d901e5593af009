"""Words as a text encoder sees them: in templates, averaged, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sseg_core.data.token_rows import trimmed
from sseg_core.inference.text_cache import Features, TextCache
from sseg_core.text.prompts import fill_template

_TEXTS_AT_ONCE = 256  # bounds the activations of the text encoder for a thousand class names
_REMEMBERED = 32


class WordFeatures:
    """Turns words into text features; remembers the last vocabularies.

    Args:
        encode: returns [n, D] float32 unit vectors for [n, L] int64 token ids.
        tokenizer: returns the ids of texts.
        identity: a digest of the encoder's weights, to keep features on disk; None for an encoder
            that is still learning.
    """

    def __init__(
        self,
        encode: Callable[[npt.NDArray[np.int64]], Features],
        tokenizer: Callable[[Sequence[str]], npt.NDArray[np.int64]],
        identity: str | None = None,
    ) -> None:
        self._encode = encode
        self._tokenizer = tokenizer
        self._identity = identity
        self._cache = TextCache()
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...], bool], Features] = {}

    def of(
        self,
        words: tuple[str, ...],
        templates: tuple[str, ...],
        *,
        articles: bool = True,
    ) -> Features:
        """Return the features of words: the normalised mean over the templates.

        Args:
            words: C words.
            templates: texts around a word.
            articles: write "an" instead of "a" where a word needs it.

        Returns:
            [C, D] float32 unit vectors.

        Raises:
            ConfigError: a template that cannot hold a word.
        """
        key = (words, templates, articles)
        if key not in self._known:
            # The texts of a word are kept as one: eighty templates of a thousand words are many.
            texts_of_words = [
                "\0".join(fill_template(t, word, articles=articles) for t in templates)
                for word in words
            ]

            def encode(texts_of_some: Sequence[str]) -> Features:
                texts = [text for joined in texts_of_some for text in joined.split("\0")]
                features_CTD = self._encoded(texts).reshape(len(texts_of_some), len(templates), -1)
                if len(templates) == 1:
                    return features_CTD[:, 0]
                return _unit(features_CTD.mean(axis=1))

            rows = (
                encode(texts_of_words)
                if self._identity is None
                else self._cache.get_or_encode(self._identity, texts_of_words, encode)
            )
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))  # the oldest
            self._known[key] = rows
        return self._known[key]

    def _encoded(self, texts: Sequence[str]) -> Features:
        """Return [n, D] float32 unit vectors."""
        ids = trimmed(self._tokenizer(texts))
        parts = [
            self._encode(ids[first : first + _TEXTS_AT_ONCE])
            for first in range(0, len(ids), _TEXTS_AT_ONCE)
        ]
        return np.concatenate(parts)


def _unit(rows_CD: Features) -> Features:
    lengths = np.linalg.norm(rows_CD, axis=1, keepdims=True)
    unit: Features = rows_CD / np.maximum(lengths, 1e-12)
    return unit
