"""`sseg predict`."""

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
    from collections.abc import Iterable

    from sseg_core.artifacts import Artifact

EXAMPLES = """Examples:

sseg predict photo.jpg --classes "tiger,minion"

sseg predict photos/ more/*.png --classes @names.txt --threshold 0.5 --out results/

sseg predict https://example.org/cat.jpg --classes "tv=television|tv monitor, cat"

cat photo.jpg | sseg predict - --classes "house,tree,sky" --json

No training run? Take published weights: --model maskclip:ViT-B-16

More: --set window=448, flip=true, scales=[0.75,1,1.25], refine=pamr, image_size=896
"""

_TABLES = 4  # images; for more a line each
_LINES = 40


def predict(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Files, folders, globs, http(s) URLs, or - for stdin.",
        ),
    ],
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="NAMES",
            help='Class names, "tiger,minion", with synonyms, "tv=television|tv monitor", or a '
            "file: @names.txt",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="REF",
            help="Checkpoint, folder of an export, maskclip:ARCH, groupvit, ... or "
            "FILE.py:FUNCTION, as for sseg eval. Default: the newest checkpoint.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Pixels whose best probability is lower are background. Default: 0, none is.",
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background",
            metavar="WORDS",
            help='Words whose pixels are background, "sky,road". Default: none, and common words '
            "where one class is asked for alone.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help='Text around a class name, "a photo of a {}."; repeatable, averaged; or a set: '
            "simple, imagenet80.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Copy the outputs to this folder, which must be empty."
        ),
    ] = None,
    npz: Annotated[
        bool, typer.Option("--npz", help="Write the probabilities of all classes too.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Segment photos with any words.

    Writes for each photo an overlay with a legend and a palette label map; for all of them a page
    to look at (viewer.html) and predictions.jsonl with area shares, probabilities, COCO RLE masks
    and polygons. With --json every image is a line as soon as it is done, and the artifact is the
    last line. A photo that cannot be used does not stop the others; the exit code is then 1.
    """
    from sseg_cli.console import artifact_json, show_json, show_plan, show_progress
    from sseg_core.config import PredictConfig, build_config
    from sseg_core.text.prompts import read_class_names

    values = {"images": images, "classes": read_class_names(classes)}
    words = None
    if background is not None:
        words = read_class_names(background) if background.strip() else ()
    configuration = changed(
        configured(build_config(PredictConfig, values), config, set_),
        model=model,
        threshold=threshold,
        background_words=words,
        templates=template or None,
        npz=npz or None,
    )
    store = settings_of(context).open_store()
    if dry_run:
        show_plan("predict", configuration, _inputs(configuration, store), as_json=as_json)
        return
    from sseg_core.stages import predict as stage
    from sseg_core.stages.out_folder import check_folder, copy_to

    if out is not None:
        check_folder(out)
    with show_progress() as progress:
        artifact = stage.run(
            configuration,
            store,
            name=name,
            device=device,
            progress=progress,
            each=show_json if as_json else None,
        )
    if out is not None:
        copy_to(artifact, out)
    if as_json:
        show_json({**artifact_json(artifact), **({"out": str(out)} if out is not None else {})})
    else:
        _show_predictions(artifact, stage.read_entries(artifact), out or artifact.path)
    if artifact.manifest.stats["failed"]:
        raise typer.Exit(1)


def _inputs(config: Any, store: Any) -> dict[str, Any]:
    """Return what a run would take."""
    from sseg_core.data.photos import list_photos
    from sseg_core.evaluation.rivals.names import names_checkpoint

    model = config.model
    if names_checkpoint(model):
        model = store.find(model, "checkpoint", "export").reference
    return {"model": model, "images": len(list_photos(config.images))}


def _show_predictions(artifact: Artifact, entries: Iterable[dict[str, Any]], folder: Path) -> None:
    from rich.text import Text

    from sseg_cli.console import show_error, show_place, stdout

    stats = artifact.manifest.stats
    count = stats["images"]
    for number, image in enumerate(entry for entry in entries if "error" not in entry):
        if count <= _TABLES:
            _show_table(image)
            stdout().print(Text(f"overlay: {folder / image['overlay']}"), soft_wrap=True)
        elif number < _LINES:
            _show_line(image)
    if count > _LINES:
        stdout().print(f"... and {count - _LINES:,} more images")
    viewer = folder / "viewer.html"
    if viewer.is_file():
        stdout().print(Text.assemble("look at it: ", (str(viewer), "bold")), soft_wrap=True)
    show_place(artifact)
    if failed := sum(stats["failed"].values()):
        show_error(
            f"{failed} of {failed + count} images could not be used.",
            "They are named above and in predictions.jsonl.",
        )


def _show_table(image: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from sseg_cli.console import stdout, visible

    table = Table(title=Text(visible(image["file"])), title_justify="left", box=None)
    table.add_column("class")
    table.add_column("area", justify="right")
    table.add_column("probability", justify="right")
    for row in _largest_first(image):
        probability = row["mean_probability"]
        table.add_row(
            Text(visible(row["name"])),
            _percent(row["area_share"]),
            "" if probability is None else f"{probability:.2f}",
        )
    if image["background_share"] > 0:
        table.add_row(Text("background", style="dim"), _percent(image["background_share"]), "")
    stdout().print(table)


def _show_line(image: dict[str, Any]) -> None:
    from rich.text import Text

    from sseg_cli.console import stdout, visible

    shares = [
        f"{visible(row['name'])} {_percent(row['area_share'])}" for row in _largest_first(image)
    ]
    more = f", and {len(shares) - 3} more" if len(shares) > 3 else ""
    found = ", ".join(shares[:3]) + more or "none of the classes"
    stdout().print(Text.assemble((visible(image["file"]), "bold"), f": {found}"))


def _largest_first(image: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(image["classes"], key=lambda row: -row["area_share"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
