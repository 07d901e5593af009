"""From the scores of words at every pixel to labels, in NumPy alone: for exported networks.

A pixel gets its best word and so the class of that word, which is the maximum over the synonyms
of a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import RGBImage
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.structures import BACKGROUND

_ROWS = 64
"""Rows of labels that are gone through at once."""


class WordScores(Protocol):
    """What tells the scores of words at every pixel: `SeenWindows` and `SeenCells`."""

    def word_scores(
        self, size: tuple[int, int], words: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return [n, H, W] float32 the probability of n of the words at every pixel."""
        ...

    def best_words(
        self, size: tuple[int, int], takes_part: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Return [H, W] the best of the words that take part, and [H, W] its probability."""
        ...


@dataclass(frozen=True, eq=False)
class SeenArrays:
    """What an exported network made of an image; see `Seen`.

    Attributes:
        scores: of the words.
        vocabulary: the words.
        min_share: see `View`.
    """

    scores: WordScores
    vocabulary: Vocabulary
    min_share: float

    def label(self, image: RGBImage) -> Prediction:
        """Return the class of the best word of every pixel, and its probability.

        Where no word has a score, a pixel is background.
        """
        size = (image.shape[0], image.shape[1])
        words, best = self.scores.best_words(size)
        labels = self._classes_of(words, best)
        if self.min_share > 0:
            words, best = self.scores.best_words(size, self._words_of_large_classes(labels))
            labels = self._classes_of(words, best)
        return Prediction(labels, best)

    def class_probabilities(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return [C, H, W] float32; words for background have the rest to 1."""
        own = self.vocabulary.without_background_words()
        index = np.nonzero(np.array(self.vocabulary.classes) != BACKGROUND)[0]
        return own.of_classes(self.scores.word_scores(size, index))

    def _classes_of(
        self, words: npt.NDArray[np.int16], best: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int16]:
        """Turn words into classes; in place, for copies of a large photo's map are large too."""
        for top in range(0, len(words), _ROWS):
            rows = slice(top, top + _ROWS)
            labels = self.vocabulary.class_map(words[rows])
            words[rows] = np.where(best[rows] > 0, labels, np.int16(BACKGROUND))
        return words

    def _words_of_large_classes(self, labels: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
        """Tell of each word whether it takes part, as those for background always do."""
        counts_C = np.zeros(len(self.vocabulary.class_names), np.int64)
        for top in range(0, len(labels), _ROWS):
            rows = labels[top : top + _ROWS]
            counts_C += np.bincount(rows[rows >= 0], minlength=len(counts_C))
        classes_W = np.array(self.vocabulary.classes)
        is_large_C = counts_C > self.min_share * counts_C.sum()
        large: npt.NDArray[np.bool_] = (classes_W == BACKGROUND) | is_large_C[classes_W]
        return large
