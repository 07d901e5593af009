"""`sseg eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from sseg_core.artifacts import Artifact

EXAMPLES = """Examples:

sseg eval --benchmark toyworld

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model my-run

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --set background=exclude

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model oracle:lab
"""


def evaluate(
    context: typer.Context,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="toyworld or voc2012.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Folder of the benchmark.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="REF",
            help="Checkpoint, or oracle:FEATURES for the pseudo-masks themselves. "
            "Default: the newest checkpoint.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Score only N images.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Score a model on a benchmark: mIoU, per-class IoU, pixel accuracy, images per second."""
    from sseg_cli.console import show_json, show_plan, show_progress
    from sseg_core.config import EvalConfig

    configuration = changed(
        configured(EvalConfig(), config, set_),
        benchmark=benchmark,
        root=None if root is None else str(root),
        model=model,
        limit=limit,
    )
    store = settings_of(context).open_store()
    if dry_run:
        inputs: dict[str, Any] = {"benchmark": configuration.benchmark}
        if not (configuration.model or "").startswith("oracle:"):
            inputs["model"] = store.find(configuration.model, "checkpoint").reference
        show_plan("eval", configuration, inputs, as_json=as_json)
        return
    from sseg_core.stages import evaluate as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, device=device, progress=progress)
    if as_json:
        from sseg_cli.console import artifact_json

        show_json(artifact_json(artifact))
    else:
        _show_scores(artifact)


def _show_scores(artifact: Artifact) -> None:
    from rich.table import Table

    from sseg_cli.console import facts_table, show_place, stdout, visible

    stats = artifact.manifest.stats
    console = stdout()
    table = Table(box=None, header_style="bold")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for name, iou in stats["iou"].items():
        table.add_row(visible(name), "absent" if iou is None else f"{iou:.1f}")
    console.print(table)
    rows = {k: v for k, v in stats.items() if not isinstance(v, dict | list)}
    console.print(facts_table(rows))
    protocol = ", ".join(f"{key}={value}" for key, value in stats["protocol"].items())
    console.print(f"[cyan]protocol[/] {visible(protocol)}", soft_wrap=True)
    show_place(artifact)
