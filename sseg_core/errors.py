"""The errors that sseg raises on purpose.

Every one carries a message of one sentence and a hint that names the next step. The library
raises them; only the command line decides how they look and which exit code they get.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_JOINERS = "\u200c\u200d"  # of Persian letters, and of emoji


class SsegError(Exception):
    """An expected failure: bad input, a missing file, a wrong reference.

    Attributes:
        message: one sentence that says what is wrong.
        hint: the next step for the user, or an empty string.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(SsegError):
    """An option, a recipe or a configuration file that cannot be used."""


class ArtifactError(SsegError):
    """An artifact that is missing, of another kind, newer than this program, or changed."""


class DataError(SsegError):
    """Input data (images, captions, shards, benchmarks) that cannot be used."""


class TrainingError(SsegError):
    """A training run that must not go on, for example after a non-finite loss."""


class Stopped(SsegError):  # noqa: N818 - nothing went wrong
    """A run that a signal ended; what it has done is kept, and the same command goes on."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a hint that names the closest of `choices`, or all of them if none is close."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Choose one of: {', '.join(known)}."


def printable(text: object, limit: int | None = 80) -> str:
    """Return a name from a stranger's data as one harmless line of at most `limit` characters.

    Control characters (a terminal would obey them) and unpaired surrogates become "?", and odd
    spaces plain ones; what joins letters and emoji stays. Of a long name the end is kept, where
    file names differ.
    """
    line = "".join(_harmless(c) for c in str(text))
    return line if limit is None or len(line) <= limit else "..." + line[3 - limit :]


def _harmless(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if unicodedata.category(character) == "Zs" else "?"
