"""The words for each class of a benchmark, from a user's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sseg_core.errors import ConfigError, did_you_mean, printable
from sseg_core.evaluation.examples import Benchmark
from sseg_core.text.prompts import check_class_names


@dataclass(frozen=True)
class ClassWords:
    """What a file says.

    Attributes:
        words: the words that are asked for instead of a class name, by class name.
        background: words whose pixels are background.
    """

    words: Mapping[str, tuple[str, ...]]
    background: tuple[str, ...] = ()


def read_class_words(path: str, benchmark: Benchmark) -> ClassWords:
    """Read the words for the classes of a benchmark.

    A line is `class: word, word`, in any order and only for the classes that differ; or there is
    a line `word, word` for every class, in the benchmark's order, as SCLIP has them, with a line
    of background words first where background is scored. Empty lines and those that start with
    `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, names a class that the benchmark does not have, has
            too few or too many lines, or lists the benchmark's classes in another order.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"Cannot read the class words in {path!r}: {reason}.",
            "Write a line CLASS: WORD, WORD for each class.",
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if any(":" in line for line in lines):
        return _by_name(lines, path, benchmark)
    return _by_order([_words(line) for line in lines], path, benchmark)


def _by_name(lines: Sequence[str], path: str, benchmark: Benchmark) -> ClassWords:
    known = (*benchmark.class_names, *(("background",) if benchmark.has_background else ()))
    words: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, colon, rest = (part.strip() for part in line.partition(":"))
        if not colon or name not in known:
            raise ConfigError(
                f"{path} has a line for {printable(name)!r}, which is no class of "
                f"{benchmark.name}.",
                did_you_mean(name, known),
            )
        if name in words:
            raise ConfigError(f"{path} has two lines for {name!r}.", "Join them with a comma.")
        words[name] = _words(rest)
    background = words.pop("background", ())
    return ClassWords(words, background)


def _by_order(rows: Sequence[tuple[str, ...]], path: str, benchmark: Benchmark) -> ClassWords:
    names = benchmark.class_names
    background: tuple[str, ...] = ()
    if benchmark.has_background and len(rows) == len(names) + 1:
        background, rows = rows[0], rows[1:]
    if len(rows) != len(names):
        raise ConfigError(
            f"{path} has {len(rows)} lines, but {benchmark.name} has {len(names)} classes.",
            "Write a line for each class, or lines CLASS: WORD, WORD for those that differ.",
        )
    first = [row[0] for row in rows]
    for number, (found, expected) in enumerate(zip(first, names, strict=True), start=1):
        if found != expected and found in names:
            raise ConfigError(
                f"{path} lists the classes in another order than {benchmark.name}: class {number} "
                f"is {printable(found)!r}, the benchmark has {expected!r}.",
                "Put the lines in the benchmark's order, or write them as CLASS: WORD, WORD.",
            )
    return ClassWords(dict(zip(names, rows, strict=True)), background)


def _words(text: str) -> tuple[str, ...]:
    return check_class_names(text.split(","))
