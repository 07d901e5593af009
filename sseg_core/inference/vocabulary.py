"""Which words stand for which class: synonyms, and words for what is background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sseg_core.inference.combine import BACKGROUND


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model is asked for, and the class that each stands for.

    A pixel gets the class of its most probable word: the maximum over synonyms.

    Attributes:
        words: W words, each asked for by itself.
        classes: [W] class index of each word, `BACKGROUND` for a word that names background.
        class_names: the C classes.
        with_background: a network that tells background apart by itself may do so; where not,
            every pixel is to get a class.
    """

    words: tuple[str, ...]
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    with_background: bool = True

    @classmethod
    def of(
        cls,
        class_names: Sequence[str],
        synonyms: Mapping[str, Sequence[str]] | None = None,
        background: Sequence[str] = (),
        *,
        with_background: bool = True,
    ) -> Vocabulary:
        """Return the vocabulary of some classes.

        Args:
            class_names: what the classes are called.
            synonyms: the words that are asked for instead of a class name.
            background: words whose pixels are background.
            with_background: see the attribute.
        """
        of_classes = [tuple((synonyms or {}).get(name, (name,))) for name in class_names]
        return cls(
            words=(*(word for words in of_classes for word in words), *background),
            classes=(
                *(index for index, words in enumerate(of_classes) for _ in words),
                *(BACKGROUND for _ in background),
            ),
            class_names=tuple(class_names),
            with_background=with_background,
        )

    def words_of(self, index: int) -> tuple[str, ...]:
        """Return the words for a class, or for `BACKGROUND`."""
        return tuple(w for w, c in zip(self.words, self.classes, strict=True) if c == index)

    def without_background_words(self) -> Vocabulary:
        """Return the vocabulary with nothing but words for classes."""
        kept = [index for index, c in enumerate(self.classes) if c != BACKGROUND]
        return replace(
            self,
            words=tuple(self.words[index] for index in kept),
            classes=tuple(self.classes[index] for index in kept),
        )

    def class_map(self, word_map: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
        """Turn a map of word indices into one of class indices; negative labels stay as they are.

        Args:
            word_map: [H, W] index into `words`, or negative.
        """
        classes = np.array(self.classes, np.int16)
        found = classes[np.maximum(word_map, 0)]
        return np.where(word_map < 0, word_map, found).astype(np.int16)
