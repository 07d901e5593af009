"""The application: its commands, in the order of the pipeline, and the options of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sseg_cli.commands import (
    artifacts,
    demo,
    download,
    evaluate,
    export,
    predict,
    pseudomask,
    selftrain,
    train,
)
from sseg_cli.options import Settings, guarded

app = typer.Typer(
    name="sseg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: sseg demo\n\nEvery command has examples: sseg predict --help",
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"sseg {version('sseg')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            envvar="SSEG_STORE",
            help="Folder of all artifacts. Default: ./sseg-artifacts.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does all
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Segment any photo with any words, learned from images and captions alone.

    The stages: download -> pseudomask -> train -> selftrain -> eval -> predict, export. Each
    writes a versioned artifact that the next one takes up.
    """
    context.obj = Settings(store=store or Path("sseg-artifacts"), debug=debug)


for command, name, epilog in (
    (demo.demo, "demo", demo.EXAMPLES),
    (download.download, "download", download.EXAMPLES),
    (pseudomask.pseudomask, "pseudomask", pseudomask.EXAMPLES),
    (train.train, "train", train.EXAMPLES),
    (selftrain.selftrain, "selftrain", selftrain.EXAMPLES),
    (evaluate.evaluate, "eval", evaluate.EXAMPLES),
    (predict.predict, "predict", predict.EXAMPLES),
    (export.export, "export", export.EXAMPLES),
    (artifacts.artifacts, "artifacts", artifacts.EXAMPLES),
):
    app.command(name, epilog=epilog)(guarded(command))
