"""`sseg download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sseg_cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    NameOption,
    SetOption,
    changed,
    configured,
    settings_of,
)

EXAMPLES = """Examples:

sseg download toyworld

sseg download pairs:captions.jsonl --root photos/

sseg download pairs:captions.tsv --limit 1000 --name trial
"""


def download(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="toyworld, or pairs:FILE with a jsonl, csv or tsv file of images and captions.",
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Folder of the images. Default: the folder of FILE."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Stop after N images.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Pack captioned images into shards, or draw the built-in toy world.

    Unusable images are skipped and counted by reason. The same command run again goes on where
    an interrupted one stopped.
    """
    from sseg_cli.console import show_artifact, show_plan, show_progress
    from sseg_core.config import DownloadConfig

    configuration = changed(
        configured(DownloadConfig(source=source), config, set_),
        root=None if root is None else str(root),
        limit=limit,
    )
    store = settings_of(context).open_store()
    if dry_run:
        show_plan("download", configuration, {"source": source}, as_json=as_json)
        return
    from sseg_core.stages import download as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, progress=progress)
    next_step = f"sseg pseudomask --pairs {artifact.manifest.name}"
    show_artifact(artifact, next_step, as_json=as_json)
