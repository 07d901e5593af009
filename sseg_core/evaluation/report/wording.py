"""How the values of a scores artifact read on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sseg_core.errors import printable

_FEW = 3
"""Lists of more items than this are folded."""


@dataclass(frozen=True)
class Entry:
    """A name with a value, such as an option of a protocol.

    Attributes:
        name: what it is.
        value: in one line.
        items: of a list too long for a line; `value` then says how many there are.
        marked: is to be seen at once.
    """

    name: str
    value: str
    items: tuple[str, ...] = ()
    marked: bool = False


def plain(text: object) -> str:
    """Return text from anywhere as one line without control or direction characters."""
    return printable(text, limit=None)


def number(value: float | None, digits: int = 1) -> str:
    """Return a score with `digits` decimals; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def entry(name: str, value: Any, *, marked: bool = False) -> Entry:
    """Return any JSON value as an entry."""
    name = plain(name).replace("_", " ")
    if isinstance(value, Mapping):
        value = [f"{key}: {_one_line(item)}" for key, item in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = tuple(map(_one_line, value))
        if len(items) > _FEW:
            return Entry(name, f"{len(items)} values", items, marked)
        return Entry(name, "; ".join(items) or "none", marked=marked)
    return Entry(name, _one_line(value), marked=marked)


def protocol_entries(protocol: Mapping[str, Any]) -> list[Entry]:
    """Return the options of a protocol; those that the user changed are marked."""
    changed = set(protocol.get("changed") or ())
    return [
        entry(name, value, marked=name in changed)
        for name, value in protocol.items()
        if name not in {"name", "version", "changed"}
    ]


def protocol_title(stats: Mapping[str, Any]) -> str:
    """Return name and version of the protocol of a scores artifact."""
    protocol = stats.get("protocol") or {}
    version = protocol.get("version")
    name = plain(protocol.get("name", "unnamed"))
    return name if version is None else f"{name}, version {version}"


def subsets(stats: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean IoU of each group of classes that has one of its own, by the group's name."""
    return {
        plain(key.removeprefix("miou_")): value
        for key, value in stats.items()
        if key.startswith("miou_") and key != "miou_interval"
    }


def _one_line(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return plain(value)
