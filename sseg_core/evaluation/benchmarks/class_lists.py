"""The classes of the benchmarks by name, in the order of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.text.prompts import check_class_names

BACKGROUND_NAME = "background"
_MAX_CLASSES = 32767  # labels are int16


@cache
def bundled_lines(name: str) -> tuple[str, ...]:
    """Return the lines of a list that lies beside this module: `ade20k` is `ade20k.txt`."""
    text = Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_class_list(path: Path, layout: str) -> tuple[str, ...]:
    """Return the names in a user's class list: one a line, in the order of the labels.

    Lines that start with `#` and empty lines at the end are skipped.

    Raises:
        DataError: the list cannot be read, is empty, has an empty line between names, or a name
            twice.
    """
    shown = printable(path, None)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"The class list {shown} cannot be read: {reason}.", layout) from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    lines = [line for line in lines if not line.startswith("#")]
    if not any(lines):
        raise DataError(f"The class list {shown} is empty.", layout)
    if "" in lines:
        raise DataError(
            f"Line {lines.index('') + 1} of the class list {shown} is empty.",
            "The place of a name in the list is its label: leave no line between names empty.",
        )
    if len(lines) > _MAX_CLASSES:
        raise DataError(f"The class list {shown} has more than {_MAX_CLASSES:,} names.")
    try:
        return check_class_names(lines)
    except ConfigError as error:
        raise DataError(
            f"The class list {shown} cannot be used: {error.message}",
            "Every label needs a name of its own, one a line.",
        ) from error


def check_order(names: Sequence[str], known: Mapping[str, Sequence[str]], path: Path) -> None:
    """Refuse a list that has all the names of a known benchmark in another order.

    Label maps in the benchmark's own numbers would then be scored under wrong names, and nothing
    else would tell.

    Args:
        names: of the classes, background not among them.
        known: class names in the order of their labels, by benchmark.
        path: of the list, for the message.

    Raises:
        DataError: the first name that differs is in the message.
    """
    found = [name.casefold() for name in names]
    for benchmark, classes in known.items():
        expected = [name.casefold() for name in classes]
        if found == expected or sorted(found) != sorted(expected):
            continue
        place = next(
            i for i, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1
        )
        raise DataError(
            f"The class list {printable(path, None)} has the classes of {benchmark} in another "
            f"order: class {place + 1} is {names[place]!r}, in {benchmark} it is "
            f"{classes[place]!r}.",
            "Put the names in the order of the labels in the masks; if this is their order, call "
            "one of them something else, such as 'a cat' for 'cat'.",
        )
