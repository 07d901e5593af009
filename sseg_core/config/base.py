"""The base of all configurations, and pydantic's complaints in one sentence."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sseg_core.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of all configurations: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def build_config(kind: type[C], values: dict[str, Any]) -> C:
    """Return `kind(**values)`, with pydantic's complaints turned into one sentence.

    Raises:
        ConfigError: an unknown field or a value out of range, named with its path.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error, kind) from error


def _as_config_error(error: ValidationError, kind: type[Config]) -> ConfigError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        known = model.model_fields
        return ConfigError(
            f"There is no option {path!r}.", did_you_mean(str(first["loc"][-1]), known)
        )
    if not path:
        return ConfigError(first["msg"].removeprefix("Value error, ") + ".")
    return ConfigError(
        f"{path} cannot be {first['input']!r}: {_lowered(first['msg'])}.",
        f"Set it with --set {path}=VALUE.",
    )


def _lowered(sentence: str) -> str:
    sentence = sentence.removeprefix("Value error, ")
    return sentence[:1].lower() + sentence[1:]
