"""`sseg predict`."""

from __future__ import annotations

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

sseg predict photo.jpg --classes "tiger,minion"

sseg predict photos/ more/*.png --classes @names.txt --threshold 0.5

sseg predict photo.jpg --classes "house,tree,sky" --model tiny:v2 --json
"""


def predict(
    context: typer.Context,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Files, folders or globs.")
    ],
    classes: Annotated[
        str,
        typer.Option(
            "--classes", metavar="NAMES", help='Class names, "tiger,minion", or a file: @names.txt'
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="REF", help="Checkpoint. Default: the newest."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Pixels whose best probability is lower are background. Default: 0, none is.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Segment photos with any words.

    Writes for each photo an overlay with a legend and a palette label map, and one
    predictions.json with area shares, probabilities and COCO RLE masks.
    """
    from sseg_cli.console import show_plan, show_progress
    from sseg_core.config import PredictConfig, build_config
    from sseg_core.text.prompts import read_class_names

    values = {"images": images, "classes": read_class_names(classes)}
    configuration = changed(
        configured(build_config(PredictConfig, values), config, set_),
        model=model,
        threshold=threshold,
    )
    store = settings_of(context).open_store()
    if dry_run:
        checkpoint = store.find(configuration.model, "checkpoint")
        show_plan("predict", configuration, {"model": checkpoint.reference}, as_json=as_json)
        return
    from sseg_core.stages import predict as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, device=device, progress=progress)
    _show_predictions(artifact, as_json=as_json)


def _show_predictions(artifact: Artifact, *, as_json: bool) -> None:
    import json

    from sseg_cli.console import artifact_json, show_json

    records = json.loads(artifact.file("predictions.json").read_text(encoding="utf-8"))
    images: list[dict[str, Any]] = records["images"]
    if as_json:
        show_json({**artifact_json(artifact), "images": images})
    else:
        _show_tables(artifact, images)
    if any("error" in image for image in images):
        raise typer.Exit(1)


def _show_tables(artifact: Artifact, images: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from sseg_cli.console import show_error, show_place, stdout, visible

    console = stdout()
    for image in images:
        if "error" in image:
            continue  # it was named when it was skipped
        table = Table(title=Text(visible(image["file"])), title_justify="left", box=None)
        table.add_column("class")
        table.add_column("area", justify="right")
        table.add_column("probability", justify="right")
        for row in image["classes"]:
            probability = row["mean_probability"]
            table.add_row(
                Text(visible(row["name"])),
                f"{100 * row['area_share']:.1f} %",
                "" if probability is None else f"{probability:.2f}",
            )
        console.print(table)
        console.print(Text(f"overlay: {artifact.path / image['overlay']}"), soft_wrap=True)
    show_place(artifact)
    failed = sum("error" in image for image in images)
    if failed:
        show_error(
            f"{failed} of {len(images)} images could not be used.",
            "They are named above and in predictions.json.",
        )
