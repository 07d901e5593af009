"""Words as a text encoder sees them: in templates, averaged, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.data.batches import trimmed
from sseg_core.inference.text_cache import Features, TextCache
from sseg_core.text.prompts import fill_template

_TEXTS_AT_ONCE = 256  # bounds the activations of the text encoder for a thousand class names
_REMEMBERED = 32


class WordFeatures:
    """Turns words into text features; remembers the last vocabularies.

    Args:
        encode: returns [n, D] unit vectors for [n, L] int64 token ids on the encoder's device.
        tokenizer: returns the ids of texts.
        identity: a digest of the encoder's weights, to keep features on disk; None for an encoder
            that is still learning.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        tokenizer: Callable[[Sequence[str]], npt.NDArray[np.int64]],
        identity: str | None = None,
    ) -> None:
        self._encode = encode
        self._tokenizer = tokenizer
        self._identity = identity
        self._cache = TextCache()
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...], bool], Tensor] = {}

    def of(
        self,
        words: tuple[str, ...],
        templates: tuple[str, ...],
        device: torch.device,
        *,
        articles: bool = True,
    ) -> Tensor:
        """Return the features of words: the normalised mean over the templates.

        Args:
            words: C words.
            templates: texts around a word.
            device: of the encoder.
            articles: write "an" instead of "a" where a word needs it.

        Returns:
            [C, D] float32 unit vectors on `device`.

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
                features_CTD = self._encoded(texts, device).reshape(
                    len(texts_of_some), len(templates), -1
                )
                mean_CD = features_CTD.mean(dim=1)
                return (F.normalize(mean_CD, dim=-1) if len(templates) > 1 else mean_CD).numpy()

            rows = (
                encode(texts_of_words)
                if self._identity is None
                else self._cache.get_or_encode(self._identity, texts_of_words, encode)
            )
            if len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))  # the oldest
            self._known[key] = torch.from_numpy(rows).to(device)
        return self._known[key]

    def _encoded(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Return [n, D] float32 unit vectors on the CPU."""
        ids = torch.from_numpy(trimmed(self._tokenizer(texts)))
        parts = [
            self._encode(part.to(device)).float().cpu() for part in torch.split(ids, _TEXTS_AT_ONCE)
        ]
        return torch.cat(parts)
