"""`sseg pseudomask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sseg_cli.options import (
    ConfigOption,
    DeviceOption,
    DryRunOption,
    JsonOption,
    NameOption,
    SetOption,
    changed,
    configured,
    settings_of,
)

EXAMPLES = """Examples:

sseg pseudomask

sseg pseudomask --pairs cc12m --features dino_vits8

sseg pseudomask --features dino_vits8 --weights dino_deitsmall8_pretrain.pth --masks 8
"""


def pseudomask(
    context: typer.Context,
    pairs: Annotated[
        str | None,
        typer.Option("--pairs", metavar="REF", help="Pairs to segment. Default: the newest."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="lab (no weights needed), rgb, dino_vits8 (the paper), or timm:NAME.",
        ),
    ] = None,
    masks: Annotated[
        int | None, typer.Option("--masks", metavar="K", help="Segments per image. Default: 8.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Local weight file for ViT features."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Cut every image into K segments without labels, by clustering its features.

    Label maps are stored as small palette PNGs in shards with the keys of the pairs.
    """
    from sseg_cli.console import show_artifact, show_plan, show_progress
    from sseg_core.config import PseudomaskConfig

    configuration = changed(
        configured(PseudomaskConfig(), config, set_),
        pairs=pairs,
        features=features,
        masks=masks,
        weights=None if weights is None else str(weights),
    )
    store = settings_of(context).open_store()
    if dry_run:
        source = store.find(configuration.pairs, "pairs")
        inputs = {"pairs": source.reference, "images": source.manifest.stats["images"]}
        show_plan("pseudomask", configuration, inputs, as_json=as_json)
        return
    from sseg_core.stages import pseudomask as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, device=device, progress=progress)
    next_step = f"sseg train --masks {artifact.manifest.name}"
    show_artifact(artifact, next_step, as_json=as_json)
