"""`sseg pseudomask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sseg_cli.options import (
    ConfigOption,
    DeviceOption,
    DryRunOption,
    GpusOption,
    JsonOption,
    NameOption,
    ProcsOption,
    SetOption,
    changed,
    configured,
    settings_of,
)

EXAMPLES = """Examples:

sseg pseudomask

sseg pseudomask --pairs cc12m --features dino_vits8

sseg pseudomask --features texture --masks 8 --preview 16

sseg pseudomask --features dino_vits8 --weights dino_deitsmall8_pretrain.pth --masks 8

sseg pseudomask --pairs "s3://bucket/cc12m/{00000..01242}.tar" --features dino_vits8 --gpus 8

sseg pseudomask --pairs cc12m --features dino_vits8 --gpus 8 --dry-run
"""


def pseudomask(
    context: typer.Context,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs",
            metavar="REF",
            help="Pairs to segment, or shards: data/{000..999}.tar, a path or URL. "
            "Default: the newest pairs.",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="dino_vits8 (the paper), texture (no weights needed), lab, rgb, timm:NAME, ...",
        ),
    ] = None,
    masks: Annotated[
        int | None, typer.Option("--masks", metavar="K", help="Segments per image. Default: 8.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Local weight file for ViT features."),
    ] = None,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    preview: Annotated[
        int,
        typer.Option("--preview", metavar="N", min=0, help="Draw the first N masks to look at."),
    ] = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Cut every image into K segments without labels, by clustering its features.

    Label maps are stored as small palette PNGs in shards with the keys of the pairs. The same
    command may run on several machines that share a store: they share the work.
    """
    from sseg_cli.console import show_artifact, show_plan, show_progress, stdout
    from sseg_core.config import PseudomaskConfig
    from sseg_core.errors import ConfigError

    if gpus is not None and procs is not None:
        raise ConfigError("--gpus and --procs exclude each other.", "Give one of them.")
    processes = gpus or procs or 1
    if gpus is not None:
        device = "cuda"
    elif procs is not None:
        device = "cpu"
    configuration = changed(
        configured(PseudomaskConfig(), config, set_),
        pairs=pairs,
        features=features,
        masks=masks,
        weights=None if weights is None else str(weights),
    )
    store = settings_of(context).open_store()
    if dry_run:
        from sseg_core.pseudomask.plan import plan as make_plan

        plan = make_plan(configuration, store, name=name)
        facts = plan.facts(processes)
        if not as_json:
            facts = {fact: "unknown" if v is None else v for fact, v in facts.items()}
        show_plan("pseudomask", plan.config, facts, as_json=as_json)
        return
    from sseg_core.stages import pseudomask as stage

    with show_progress() as progress:
        artifact = stage.run(
            configuration,
            store,
            name=name,
            device=device,
            processes=processes,
            preview=preview,
            progress=progress,
        )
    next_step = f"sseg train --masks {artifact.manifest.name}"
    show_artifact(artifact, next_step, as_json=as_json)
    if preview and not as_json:
        from rich.text import Text

        page = artifact.path / stage.REPORT
        stdout().print(Text(f"report: {page}"), soft_wrap=True)
