"""`sseg export`."""

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

sseg export --format onnx

sseg export --model my-run --precision int8 --out model/

sseg predict photo.jpg --classes "tiger,minion" --model model/
"""


def export(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="REF", help="Checkpoint. Default: the newest."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="onnx, the only one.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", metavar="NAME", help="fp32, fp16 or int8. Default: fp32."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Copy the export to this folder, which must be empty."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Export a checkpoint to ONNX, for use without PyTorch.

    Writes one folder with the graphs of images and of words, the tokenizer's data and a model
    card, and compares them with the checkpoint in many sizes: a difference is an error. sseg
    predict --model DIR then needs onnxruntime, NumPy, Pillow, ftfy and regex, and no PyTorch.
    """
    from sseg_cli.console import show_artifact, show_plan, show_progress
    from sseg_core.config import ExportConfig

    configuration = changed(
        configured(ExportConfig(), config, set_), model=model, format=format_, precision=precision
    )
    store = settings_of(context).open_store()
    if dry_run:
        checkpoint = store.find(configuration.model, "checkpoint")
        show_plan("export", configuration, {"model": checkpoint.reference}, as_json=as_json)
        return
    from sseg_core.stages import export as stage
    from sseg_core.stages.out_folder import check_folder, copy_to

    if out is not None:
        check_folder(out)
    with show_progress() as progress:
        artifact = stage.run(configuration, store, name=name, progress=progress)
    if out is not None:
        copy_to(artifact, out)
    next_step = f'sseg predict photo.jpg --classes "tiger,minion" --model {out or artifact.path}'
    show_artifact(artifact, next_step, as_json=as_json)
