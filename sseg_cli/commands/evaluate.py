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
    from sseg_core.artifacts import Artifact, ArtifactStore
    from sseg_core.config import EvalConfig

EXAMPLES = """Examples:

sseg eval --benchmark toyworld

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model my-run

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --set background=exclude

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model oracle:texture

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model oracle:all
"""


def evaluate(
    context: typer.Context,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="toyworld, voc2012 or context.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Folder of the benchmark.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="REF",
            help="Checkpoint, or oracle:FEATURES for the pseudo-masks themselves, or oracle:all "
            "for the table of all generators. Default: the newest checkpoint.",
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
    """Score a model on a benchmark: mIoU, per-class IoU, boundary F, pixel accuracy, speed."""
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
        show_plan("eval", configuration, _inputs(configuration, store), as_json=as_json)
        return
    from sseg_core.stages import evaluate as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, device=device, progress=progress)
    if as_json:
        from sseg_cli.console import artifact_json

        show_json(artifact_json(artifact))
    elif "rows" in artifact.manifest.stats:
        _show_table(artifact)
    else:
        _show_scores(artifact)


def _inputs(config: EvalConfig, store: ArtifactStore) -> dict[str, Any]:
    inputs: dict[str, Any] = {"benchmark": config.benchmark}
    if config.model == "oracle:all":
        from sseg_core.evaluation.table1 import GENERATORS, check_table

        check_table(config)
        for generator in GENERATORS:
            inputs[generator.name] = generator.lacks() or "would run"
    elif not (config.model or "").startswith("oracle:"):
        inputs["model"] = store.find(config.model, "checkpoint").reference
    return inputs


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


_TABLE = {
    "generator": "generator",
    "supervision": "sup.",
    "masks": "K",
    "miou": "mIoU",
    "boundary_f": "bound. F",
    "pixel_accuracy": "pix. acc.",
    "milliseconds_per_image": "ms/image",
    "peak_memory_mb": "MB",
    "paper_miou": "paper mIoU",
}


def _show_table(artifact: Artifact) -> None:
    from rich.table import Table
    from rich.text import Text

    from sseg_cli.console import facts_table, show_place, stdout, visible

    stats = artifact.manifest.stats
    made = [row for row in stats["rows"] if row["missing"] is None]
    console = stdout()
    what = f"{stats['benchmark']} {stats['split']}, {stats['images']} images"
    console.print(Text(what, style="bold"))
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name, header in _TABLE.items():
        table.add_column(
            header, justify="left" if name in {"generator", "supervision"} else "right"
        )
    cells = [{name: _cell(row[name]) for name in _TABLE} for row in made]
    for row in cells:
        table.add_row(*row.values())
    wide_enough = console.options.update(max_width=1000)
    if console.measure(table, options=wide_enough).maximum <= console.width:
        console.print(table)
    else:
        for row in cells:  # one below the other
            console.print(facts_table({_TABLE[name]: cell for name, cell in row.items()}), "")
    console.print("paper: S-Seg Table 1, on the whole validation set", style="dim")
    for row in stats["rows"]:
        if row["missing"] is not None:
            paper = f" (paper: {row['paper_miou']})" if row["paper_miou"] is not None else ""
            console.print(
                Text.assemble((f"{row['generator']}{paper}: ", "yellow"), visible(row["missing"]))
            )
    show_place(artifact)


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return "-" if value is None else str(value)
