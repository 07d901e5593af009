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

sseg download --list

sseg download toyworld

sseg download pairs:captions.jsonl --root photos/

sseg download urls:list.tsv --min-success 0.6

sseg download urls:list.tsv --retry-failed

sseg download cc12m --part 1/4

sseg download parts:cc12m

sseg download voc2012 --root data/voc

sseg download dino_vits8
"""


def download(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="toyworld, pairs:FILE, urls:FILE, hf:ORG/NAME, parts:NAME, or one of --list.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", help="Folder of the images of pairs:FILE, or the one for a benchmark."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Stop after N images.")] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Only part i of n, as on one of n machines."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for the URLs that failed before.")
    ] = False,
    min_success: Annotated[
        float | None,
        typer.Option(
            "--min-success", metavar="SHARE", help="Fail below this share of usable images (0.5)."
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show all sources, with size, licence and origin.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Get captioned images, benchmarks and weights, or draw the built-in toy world.

    Captioned images become shards of a pairs artifact; unusable ones are skipped and counted by
    reason. The same command run again goes on where an interrupted one stopped.
    """
    from sseg_cli.console import show_artifact, show_progress
    from sseg_cli.sources import show_download_plan, show_sources
    from sseg_core.config import DownloadConfig

    if list_:
        show_sources(as_json=as_json)
        return
    if source is None:
        raise typer.BadParameter("Name a source, such as toyworld; --list shows all.")
    configuration = changed(
        configured(DownloadConfig(source=source), config, set_),
        root=None if root is None else str(root),
        limit=limit,
        part=part,
        min_success=min_success,
    )
    store = settings_of(context).open_store()
    from sseg_core.stages import download as stage

    with show_progress() as progress:
        if dry_run:
            packer = stage.open_packer(configuration, store, progress=progress)
            plan = packer.plan(configuration, store.root)
        else:
            artifact = stage.run(
                configuration, store, name=name, retry_failed=retry_failed, progress=progress
            )
    if dry_run:
        show_download_plan(plan, as_json=as_json, config=configuration.model_dump(mode="json"))
        return
    next_step = f"sseg pseudomask --pairs {artifact.manifest.name}"
    show_artifact(artifact, next_step, as_json=as_json)
