"""`sseg train`."""

from __future__ import annotations

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

sseg train --recipe tiny

sseg train --recipe small --masks pairs-mini --set steps=300 --set batch_size=16

sseg train --recipe paper --dry-run
"""


def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Configuration to start from: tiny, small or paper.")
    ] = "tiny",
    masks: Annotated[
        str | None,
        typer.Option("--masks", metavar="REF", help="Masks to train on. Default: the newest."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train a segmenter from captioned images and their pseudo-masks.

    The same command run again resumes an interrupted run from its last step checkpoint.
    """
    from sseg_cli.console import show_artifact, show_plan, show_progress
    from sseg_core.recipes import recipe as named

    configuration = configured(named(recipe), config, set_)
    if masks is not None:
        chosen = changed(configuration.masks, stored=masks)
        configuration = configuration.model_copy(update={"masks": chosen})
    from sseg_core.stages import train as stage

    store = settings_of(context).open_store()
    if dry_run:
        plan = stage.plan(configuration, store)
        inputs = {
            "masks": plan.masks.reference,
            "pairs": plan.pairs.reference,
            "images": plan.images,
            "steps": plan.steps,
            "warmup_steps": plan.warmup_steps,
        }
        show_plan("train", plan.config, inputs, as_json=as_json)
        return
    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, device=device, progress=progress)
    next_step = 'sseg predict PHOTO.jpg --classes "house, tree"'
    show_artifact(artifact, next_step, as_json=as_json)
