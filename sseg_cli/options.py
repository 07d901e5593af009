"""What the commands share: option types, settings, and how an error ends a command."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.config import Config

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="Config")

NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the artifact to write.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML or JSON file of options to start from."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set any option by its path; repeatable."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... or auto.")
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", metavar="N", min=1, help="One process on each of N GPUs."),
]
ProcsOption = Annotated[
    int | None,
    typer.Option("--procs", metavar="N", min=1, help="N processes share the CPU's cores."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the resolved plan and do nothing.")
]

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143  # 128 + SIGTERM, as a shell has it


@dataclass(frozen=True)
class Settings:
    """The options that stand before the command."""

    store: Path
    debug: bool

    def open_store(self) -> ArtifactStore:
        """Return the artifact store."""
        from sseg_core.artifacts import ArtifactStore

        return ArtifactStore(self.store)


def settings_of(context: typer.Context) -> Settings:
    """Return the settings that the root callback left in the context."""
    settings = context.find_object(Settings)
    assert settings is not None
    return settings


def configured(config: C, file: Path | None, assignments: list[str] | None) -> C:
    """Return `config` with a file's and then the command line's values: the later wins."""
    from sseg_core.overrides import with_file, with_overrides

    if file is not None:
        config = with_file(config, file)
    return with_overrides(config, assignments or [])


def changed(config: C, **values: Any) -> C:
    """Return `config` with the named options that were given (not None), checked."""
    from sseg_core.config import build_config

    given = {name: value for name, value in values.items() if value is not None}
    return build_config(type(config), {**config.model_dump(), **given})


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn an expected failure into one sentence, one hint and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from sseg_core.errors import SsegError, Stopped

        context: typer.Context = kwargs["context"]  # type: ignore[assignment]
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except Stopped as error:
            _fail(error.message, error.hint, context, as_json=as_json)
            raise typer.Exit(EXIT_STOPPED) from None
        except SsegError as error:
            _fail(error.message, error.hint, context, as_json=as_json)
        except KeyboardInterrupt:
            _fail("Interrupted.", "Run the same command to go on.", context, as_json=as_json)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has gone (for example `| head`); that is no failure.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
                raise
            place = f" at {error.filename}" if error.filename else ""
            _fail(
                f"{error.strerror}{place}.",
                "Make room or choose another place with --store; the same command then goes on.",
                context,
                as_json=as_json,
            )
        raise typer.Exit(EXIT_ERROR)

    return wrapper


def _fail(message: str, hint: str, context: typer.Context, *, as_json: bool) -> None:
    from sseg_cli.console import show_error

    if settings_of(context).debug:
        traceback.print_exc()
    if as_json:
        typer.echo(json.dumps({"error": message, "hint": hint}))
    show_error(message, hint)
