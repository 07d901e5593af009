"""`sseg selftrain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.config import SelftrainConfig

EXAMPLES = """Examples:

sseg selftrain --benchmark toyworld

sseg selftrain --benchmark voc2012 --root VOCdevkit/VOC2012 --teacher my-run --gpus 4

sseg selftrain --images photos/ --classes "tiger,minion" --recipe voc2012 --teacher my-run

sseg selftrain --benchmark coco-object --root coco --set label.flip=true --rounds 3

sseg selftrain --labels my-run-plus --set optim.lr=2e-4 --set steps=10000
"""


def selftrain(
    context: typer.Context,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark", help="Whose classes and unlabelled training images; as of sseg eval."
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Folder of the benchmark.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="REF",
            help="What labels the images: anything that sseg eval --model takes. Default: the "
            "newest checkpoint of sseg train.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Photos to label instead of the benchmark's."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            help='Class names where there is no benchmark: "tiger,minion" or @names.txt.',
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="REF", help="Labels that are there already."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Student to start from: tiny, voc2012, context or coco. Default: by benchmark.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="A student teaches the next."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Label only N images.")] = None,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train a student on what a model says of unlabelled images (S-Seg+).

    The teacher labels the images, a UperNet learns from its confident pixels, and both are scored
    on held-out images. The student is a checkpoint like any other, for the classes it learned.
    The same command run again resumes, in either half.
    """
    from sseg_cli.processes.plan import plan_processes
    from sseg_core.config import SelftrainConfig, build_config
    from sseg_core.student_recipes import recipe_for, student_recipe
    from sseg_core.text.prompts import read_class_names

    start = student_recipe(recipe or recipe_for(benchmark or "toyworld"))
    configuration = changed(
        configured(build_config(SelftrainConfig, start.model_dump()), config, set_),
        labels=labels,
        rounds=rounds,
    )
    names = None if classes is None else tuple(read_class_names(classes))
    label = changed(
        configuration.label,
        benchmark=benchmark,
        root=None if root is None else str(root),
        model=teacher,
        images=None if images is None else str(images),
        classes=names,
        limit=limit,
    )
    configuration = configuration.model_copy(update={"label": label})
    store = settings_of(context).open_store()
    processes = plan_processes(gpus, procs, None, None)
    if dry_run:
        from sseg_cli.console import show_plan
        from sseg_core.stages.selftrain import resolve

        configuration = resolve(configuration, store)
        show_plan("selftrain", configuration, _inputs(configuration, store), as_json=as_json)
        return
    from sseg_cli.processes.joined import make_artifact

    made = make_artifact(
        "selftrain", configuration, store.root, name, processes=processes, device=device
    )
    if made is None:
        return
    from sseg_cli.console import artifact_json, show_artifact, show_json
    from sseg_core.stages.rounds import rounds_of

    table = rounds_of(made, store)
    if as_json:
        show_json({**artifact_json(made), "rounds": table})
        return
    _show_rounds(table)
    scored = [row["scores"] for row in table if "scores" in row]
    compare = f"sseg eval --compare {scored[0]} {scored[-1]}" if len(scored) > 1 else ""
    show_artifact(made, compare, as_json=False)


def _show_rounds(rounds: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each model, the first teacher first."""
    from rich.table import Table
    from rich.text import Text

    from sseg_cli.console import stdout, visible

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for title in ("mIoU", "95 %", "accuracy", "agrees"):
        table.add_column(title, justify="right")
    for row in rounds:
        low, high = row.get("miou_interval", (None, None))
        table.add_row(
            Text(visible(row["model"])),
            _number(row.get("miou"), 2),
            "-" if low is None or high is None else f"{low:.1f}-{high:.1f}",
            _number(row.get("pixel_accuracy"), 1),
            _number(row.get("agreement"), 1),
        )
    console = stdout()
    console.print(table)
    console.print(
        "agrees: percent of the pixels of held-out images labelled as by the teacher", style="dim"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _inputs(config: SelftrainConfig, store: ArtifactStore) -> dict[str, Any]:
    from sseg_core.labelling.images import open_images

    images = open_images(config.label, store)
    return {
        "teacher": config.label.model,
        "labels": config.labels or "to be made",
        "images": len(images.keys),
        "classes": len(images.benchmark.class_names),
        "background": images.benchmark.has_background,
        "steps": config.steps,
        "rounds": config.rounds,
    }
