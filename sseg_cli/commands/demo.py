"""`sseg demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sseg_cli.options import (
    DeviceOption,
    DryRunOption,
    JsonOption,
    SetOption,
    changed,
    configured,
    settings_of,
)

if TYPE_CHECKING:
    from sseg_core.artifacts import Artifact

EXAMPLES = """Examples:

sseg demo

sseg demo --seed 1 --json

sseg demo --set steps=100 --set scenes=1000
"""


def demo(
    context: typer.Context,
    seed: Annotated[int | None, typer.Option("--seed", help="Another world. Default: 0.")] = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Run the whole pipeline on a toy world, in minutes on two cores, and write a report.

    Draws captioned scenes, cuts them into pseudo-masks, trains a segmenter from scratch, and
    scores it on held-out scenes with words alone.
    """
    from sseg_cli.console import artifact_json, show_json, show_plan, show_progress
    from sseg_core.config import DemoConfig

    configuration = changed(configured(DemoConfig(), None, set_), seed=seed)
    store = settings_of(context).open_store()
    if dry_run:
        show_plan("demo", configuration, {"store": str(store.root)}, as_json=as_json)
        return
    from sseg_core.stages import demo as stage

    with show_progress() as progress:
        artifact = stage.run(configuration, store, device=device, progress=progress)
    if as_json:
        show_json({**artifact_json(artifact), "report": str(artifact.path / stage.REPORT)})
    else:
        _show(artifact)


def _show(artifact: Artifact) -> None:
    from rich.text import Text

    from sseg_cli.console import facts_table, stdout
    from sseg_core.stages.demo import NEXT_COMMANDS, REPORT

    stats = artifact.manifest.stats
    console = stdout()
    console.print(
        facts_table(
            {
                "held-out mIoU, all words": f"{stats['miou']:.1f}",
                "held-out mIoU, objects": f"{stats['miou_objects']:.1f}",
                "pixel accuracy": f"{stats['pixel_accuracy']:.1f}",
                "pseudo-mask oracle mIoU": f"{stats['oracle_miou']:.1f}",
                "training images/s": f"{stats['train_images_per_second']:.0f}",
                "seconds": f"{stats['seconds']:.0f}",
            }
        )
    )
    console.print(Text(f"report: {artifact.path / REPORT}"), soft_wrap=True)
    console.print("Now segment a photo of your own:")
    for command in NEXT_COMMANDS:
        console.print(Text(f"  {command}", style="bold"), soft_wrap=True)
