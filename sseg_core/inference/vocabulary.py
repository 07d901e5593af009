"""Which words stand for which class: synonyms, and words for what is background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sseg_core.structures import BACKGROUND, VOID
from sseg_core.text.prompts import check_class_names, read_class_names, split_synonyms

CONTRAST_WORDS = (
    "person", "animal", "vehicle", "furniture", "food", "plant", "building", "wall", "floor",
    "ceiling", "window", "road", "grass", "tree", "sky", "cloud", "water", "sea", "sand", "snow",
    "rock", "mountain", "ground", "fabric", "paper",
)  # fmt: skip
"""What photos show besides, in coarse words, which a name of something leaves behind (our choice,
not in the paper): near synonyms of a name would take its pixels."""


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

    @classmethod
    def parse(cls, classes: Sequence[str] | str, background: Sequence[str] = ()) -> Vocabulary:
        """Return the vocabulary that a user wrote.

        Args:
            classes: names, or "tv=television|tv monitor" with synonyms, see `split_synonyms`; or
                one text of them, "tiger, minion" or "@names.txt".
            background: words whose pixels are background.

        Raises:
            ConfigError: an unusable name, or a name or a word that stands there twice.
        """
        if isinstance(classes, str):
            classes = read_class_names(classes)
        split = [split_synonyms(text) for text in check_class_names(classes)]
        names = check_class_names(name for name, _ in split)
        check_class_names(word for _, words in split for word in words)
        if background:
            check_class_names([*(word for _, words in split for word in words), *background])
        return cls.of(names, dict(split), tuple(background))

    def contrasted(self) -> Vocabulary:
        """Return the vocabulary with common words for what is none of its classes.

        A single word takes every pixel: probabilities are among what is asked for.
        """
        own = {word.casefold() for word in self.words}
        others = tuple(word for word in CONTRAST_WORDS if word not in own)
        return replace(
            self,
            words=(*self.words, *others),
            classes=(*self.classes, *(BACKGROUND for _ in others)),
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

    def of_classes(self, of_words: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn the probabilities of words into those of classes: the maximum over synonyms.

        Args:
            of_words: [W, ...] one of each word.

        Returns:
            [C, ...], 0 for a class without a word.
        """
        index = [np.nonzero(np.array(self.classes) == c)[0] for c in range(len(self.class_names))]
        if all(list(own) == [number] for number, own in enumerate(index)):
            return of_words[: len(index)]
        return np.stack([of_words[own].max(axis=0, initial=0) for own in index])

    def class_map(self, word_map: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
        """Turn a map of word indices into one of class indices; other labels stay as they are.

        Args:
            word_map: [H, W] index into `words`, `BACKGROUND` or `VOID`.
        """
        # Negative indices count from the end.
        table: npt.NDArray[np.int16] = np.array([*self.classes, VOID, BACKGROUND], np.int16)
        class_map: npt.NDArray[np.int16] = table[word_map]
        return class_map
