"""The protocols as others published them, read from `protocols/NAME.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from sseg_core.errors import ConfigError, did_you_mean

PROTOCOLS = ("sseg", "groupvit", "tcl", "sclip")


@dataclass(frozen=True)
class Preset:
    """A protocol for all benchmarks.

    Attributes:
        name: of the protocol.
        version: of its definition.
        source: where it comes from.
        background: how background is predicted.
        words: the words for classes that are not asked for by their name, by benchmark and class.
    """

    name: str
    version: int
    source: str
    background: Literal["threshold", "words"]
    words: Mapping[str, Mapping[str, tuple[str, ...]]]
    _table: Mapping[str, Any]

    def values(self, benchmark: str, *, with_background: bool) -> dict[str, Any]:
        """Return what it fixes for a benchmark: fields of `View`, threshold, background words."""
        section = "with_background" if with_background else "without_background"
        tables = ("version", "source", "background", "words")
        general = {
            name: value
            for name, value in self._table.items()
            if name not in tables and not isinstance(value, dict)
        }
        values = {**general, **self._table.get(section, {}).get(benchmark, {})}
        if isinstance(templates := values.get("templates"), str):
            values["templates"] = (templates,)
        if "scales" in values:
            values["scales"] = tuple(map(float, values["scales"]))
        return values


def load_preset(name: str) -> Preset:
    """Return the protocol of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"There is no protocol {name!r}.", did_you_mean(name, PROTOCOLS))
    file = resources.files("sseg_core") / "evaluation" / "protocols" / f"{name}.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    words = {
        benchmark: {of_class: tuple(own) for of_class, own in classes.items()}
        for benchmark, classes in table.get("words", {}).items()
    }
    return Preset(
        name=name,
        version=table["version"],
        source=table["source"],
        background=table.get("background", "threshold"),
        words=words,
        _table=table,
    )
