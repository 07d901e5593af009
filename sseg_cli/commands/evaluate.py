"""`sseg eval`."""

from __future__ import annotations

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
    from sseg_core.artifacts import Artifact, ArtifactStore
    from sseg_core.config import EvalConfig

EXAMPLES = """Examples:

sseg eval --benchmark toyworld --report

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model my-run --check table3:S-Seg

sseg eval --benchmark context --root VOCdevkit/VOC2010 --set background=exclude

sseg eval --benchmark coco-object --root coco --model maskclip:ViT-B-16 --protocol sclip --gpus 8

sseg eval --benchmark voc2012 --root VOCdevkit/VOC2012 --model oracle:texture

sseg eval --benchmark folder:my-data --model my_model.py:build

sseg eval --compare my-run-voc2012 maskclip-ViT-B-16-voc2012
"""


def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCORES]...", help="Scores to --compare.", show_default=False),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="toyworld, voc2012, context, coco-object, coco-stuff, ade20k, lvis-v1, "
            "lvis-v0.5, imagenet-s-50, -300 or -919, or folder:DIR with images, masks and "
            "classes.txt.",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Folder of the benchmark.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="REF",
            help="Checkpoint (default: the newest), clip:ARCH, maskclip:ARCH, "
            "pseudomask-clip:ARCH, groupvit, FILE.py:FUNCTION, oracle:FEATURES for the "
            "pseudo-masks themselves, or oracle:all for the table of all generators.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="sseg (default), groupvit, tcl or sclip."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Score only N images.")] = None,
    sweep_threshold: Annotated[
        bool, typer.Option("--sweep-threshold", help="Score at every background threshold.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(
            "--check", metavar="ROW", help="Compare with the paper: table3:S-Seg, ..., or auto."
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page of the scores and pictures.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Write a page of several SCORES side by side.")
    ] = False,
    gpus: GpusOption = None,
    procs: ProcsOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Score a model on a benchmark under a named protocol.

    mIoU with its interval, per-class IoU and accuracy, boundary F, pixel accuracy, speed, memory.
    """
    from sseg_cli.console import show_plan
    from sseg_cli.processes.plan import plan_processes
    from sseg_core.config import EvalConfig
    from sseg_core.errors import ConfigError

    if runs and not compare:
        raise ConfigError(
            f"{runs[0]!r} is no option of sseg eval.",
            "Name the model with --model, or add --compare to see several scores side by side.",
        )
    root_of_store = settings_of(context).store
    if compare:
        _compare(runs or [], root_of_store, name, as_json=as_json)
        return
    configuration = changed(
        configured(EvalConfig(), config, set_),
        benchmark=benchmark,
        root=None if root is None else str(root),
        model=model,
        protocol=protocol,
        limit=limit,
        check=check,
        sweep_threshold=sweep_threshold or None,
        report=report or None,
    )
    store = settings_of(context).open_store()
    processes = plan_processes(gpus, procs, None, None)
    if dry_run:
        show_plan("eval", configuration, _inputs(configuration, store), as_json=as_json)
        return
    from sseg_cli.processes.joined import make_artifact

    made = make_artifact(
        "evaluate", configuration, root_of_store, name, processes=processes, device=device
    )
    if made is not None:
        _show(made, as_json=as_json)


def _compare(runs: list[str], root: Path, name: str | None, *, as_json: bool) -> None:
    from sseg_cli.scores import show_comparison
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.stages.compare import compare_scores

    artifact = compare_scores(runs, ArtifactStore(root), name=name)
    show_comparison(artifact, as_json=as_json)


def _show(artifact: Artifact, *, as_json: bool) -> None:
    if as_json:
        from sseg_cli.console import artifact_json, show_json

        show_json(artifact_json(artifact))
        return
    from sseg_cli.scores import show_scores, show_table

    if "rows" in artifact.manifest.stats:
        show_table(artifact)
    else:
        show_scores(artifact)


def _inputs(config: EvalConfig, store: ArtifactStore) -> dict[str, Any]:
    from sseg_core.evaluation.benchmarks.registry import open_benchmark
    from sseg_core.evaluation.protocol import segmentation_protocol

    benchmark = open_benchmark(config, store, write=False)
    inputs: dict[str, Any] = {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "images": len(benchmark),
        "classes": len(benchmark.class_names),
    }
    if config.model == "oracle:all":
        from sseg_core.evaluation.rivals.table1 import GENERATORS, check_table

        check_table(config)
        for generator in GENERATORS:
            inputs[generator.name] = generator.lacks() or "would run"
        return inputs
    if (config.model or "").startswith("oracle:"):
        return inputs
    from sseg_core.evaluation.rivals.names import names_checkpoint

    if names_checkpoint(config.model):
        inputs["model"] = store.find(config.model, "checkpoint", "export").reference
    for field, value in segmentation_protocol(config, benchmark).as_json().items():
        if value not in (None, [], {}):
            inputs[f"protocol {field}"] = value
    return inputs
