"""Which classes of a network with fixed classes are meant by the words that are asked for."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sseg_core.errors import ConfigError, printable
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.structures import BACKGROUND

_FEW = 8
"""So many of its classes are named in a hint."""


@dataclass(frozen=True)
class KnownClasses:
    """The classes that a network was taught.

    Attributes:
        names: of the classes, in the order of the network's channels.
        name: what the network is called in errors.
        teacher: reference of a model that takes any words; None where there is none.
    """

    names: tuple[str, ...]
    name: str = "The student"
    teacher: str | None = None

    def find(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Return the index of each class of a vocabulary.

        A class is found by its name, else by any of its words; upper and lower case do not differ.
        What the vocabulary calls background is not looked for.

        Raises:
            ConfigError: a class is none of the network's, or two are the same one of them.
        """
        index = {_key(name): number for number, name in enumerate(self.names)}
        words_of = [[name] for name in vocabulary.class_names]
        for word, label in zip(vocabulary.words, vocabulary.classes, strict=True):
            if label != BACKGROUND:
                words_of[label].append(word)
        found: dict[int, str] = {}
        for class_name, words in zip(vocabulary.class_names, words_of, strict=True):
            number = next((index[_key(word)] for word in words if _key(word) in index), None)
            if number is None:
                raise self._unknown(class_name, words)
            if number in found:
                raise ConfigError(
                    f"{printable(found[number])!r} and {printable(class_name)!r} are one class to "
                    f"{self.name}: {printable(self.names[number])!r}.",
                    "Ask for one of them.",
                )
            found[number] = class_name
        return tuple(found)

    def _unknown(self, class_name: str, words: Sequence[str]) -> ConfigError:
        hints = []
        if self.teacher is not None:
            teacher = printable(self.teacher)
            hints.append(f"Its teacher {teacher} takes any words: --model {teacher}.")
        known = {_key(name): name for name in self.names}
        for word in words:
            if close := difflib.get_close_matches(_key(word), known, n=1, cutoff=0.6):
                hints.insert(0, f"Did you mean {printable(known[close[0]])!r}?")
                break
        else:
            some = ", ".join(map(printable, self.names[:_FEW]))
            more = ", ..." if len(self.names) > _FEW else "."
            hints.append(f"Or choose among {some}{more}" if hints else f"Choose among {some}{more}")
        count = len(self.names)
        return ConfigError(
            f"{self.name} knows {count} {'class' if count == 1 else 'classes'}, and "
            f"{printable(class_name)!r} is none of them.",
            " ".join(hints),
        )


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()
