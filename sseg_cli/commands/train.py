"""`sseg train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from sseg_core.config import TrainConfig

EXAMPLES = """Examples:

sseg train --recipe tiny

sseg train --recipe small --masks pairs-mini --set steps=300 --set batch_size=16

sseg train --recipe paper --masks cc3m=1,cc12m=4 --gpus 8 --set micro_batch_size=256

sseg train --recipe paper --gpus 8 --nodes 4 --rendezvous host0:29500

sseg train --recipe paper --gpus 8 --dry-run
"""


def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="Configuration to start from: tiny, small, paper or pseudomask_vit."
        ),
    ] = "tiny",
    masks: Annotated[
        str | None,
        typer.Option(
            "--masks",
            metavar="REF",
            help="Masks to train on, or several by weight: a=1,b=3. Default: the newest.",
        ),
    ] = None,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", metavar="M", min=1, help="M machines run this same command."),
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option("--rendezvous", metavar="HOST:PORT", help="Where the machines meet."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train a segmenter from captioned images and their pseudo-masks.

    The same command run again resumes an interrupted run from its last step checkpoint, on any
    number of processes. SIGUSR1 writes a checkpoint; SIGTERM and Ctrl-C write one and end.
    """
    from sseg_cli.console import show_artifact, show_plan
    from sseg_cli.processes.plan import plan_processes
    from sseg_core.recipes import recipe as named

    configuration = configured(named(recipe), config, set_)
    if masks is not None:
        chosen = changed(configuration.masks, stored=masks)
        configuration = configuration.model_copy(update={"masks": chosen})
    processes = plan_processes(gpus, procs, nodes, rendezvous)
    root = settings_of(context).store
    if dry_run:
        count = 1 if processes is None else processes.processes * processes.nodes
        values, inputs = _planned(configuration, root, count)
        show_plan("train", values, inputs, as_json=as_json)
        return
    from sseg_cli.processes.joined import make_artifact

    made = make_artifact("train", configuration, root, name, processes=processes, device=device)
    if made is not None:
        next_step = 'sseg predict PHOTO.jpg --classes "house, tree"'
        show_artifact(made, next_step, as_json=as_json)


def _planned(
    configuration: TrainConfig, root: Path, processes: int
) -> tuple[TrainConfig, dict[str, object]]:
    """Return the resolved configuration and the facts of a run."""
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.models.supervision import warm_start_note
    from sseg_core.stages import train as stage
    from sseg_core.training.inputs import share_of_batch

    plan = stage.plan(configuration, ArtifactStore(root))
    share = share_of_batch(plan.config, processes)
    inputs: dict[str, object] = {
        "inputs": ", ".join(plan.inputs.references),
        "images": plan.inputs.images,
        "steps": plan.steps,
        "warmup_steps": plan.warmup_steps,
        "processes": processes,
        "micro_batch_size": share.micro_batch_size,
        "micro_batches": share.micro_batches,
    }
    if note := warm_start_note(plan.config.model.backbone):
        inputs["note"] = note
    return plan.config, inputs
