"""Changing a configuration by a file and by `--set field=value`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sseg_core.config import C, build_config
from sseg_core.errors import ConfigError


def with_overrides(config: C, assignments: Sequence[str]) -> C:
    """Return `config` with every `a.b=value` of `assignments` applied, in order.

    A value is read as TOML (`3`, `0.5`, `true`, `[1, 2]`, `"text"`); what is not TOML is taken
    as text, and `none` as None.

    Raises:
        ConfigError: an assignment without `=`, an unknown field, or a value out of range.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path.strip():
            raise ConfigError(
                f"{assignment!r} is not of the form field=value.",
                "For example: --set optim.lr=1e-4",
            )
        branch = changes
        *parents, leaf = path.strip().split(".")
        for name in parents:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{path!r} sets a part of a value that was set before.")
        branch[leaf] = _parse_value(text.strip())
    return _rebuilt(config, changes)


def with_file(config: C, path: Path) -> C:
    """Return `config` with the fields of a TOML or JSON file applied.

    Raises:
        ConfigError: the file is missing, malformed, or names an unknown field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        changes = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {path}: {error.strerror}.", "Check the path."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}.",
            "A file written by --dry-run is a good start.",
        ) from error
    if not isinstance(changes, dict):
        raise ConfigError(f"{path} holds no table of fields.")
    return _rebuilt(config, changes)


def _rebuilt(config: C, changes: dict[str, Any]) -> C:
    return build_config(type(config), _merged(config.model_dump(), changes))


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(change, dict):
            merged[name] = _merged(old, change)
        else:
            merged[name] = change
    return merged


def _parse_value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
