"""`sseg download`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from sseg_core.artifacts import ArtifactStore
    from sseg_core.config import DownloadConfig
    from sseg_core.data.sources import BenchmarkSource, WeightSource

EXAMPLES = """Examples:

sseg download --list

sseg download toyworld

sseg download pairs:captions.jsonl --root photos/

sseg download urls:list.tsv --min-success 0.6

sseg download urls:list.tsv --retry-failed

sseg download cc12m --part 1/4

sseg download parts:cc12m

sseg download voc2012 --root data/voc

sseg download dino_vits8
"""


def download(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="toyworld, pairs:FILE, urls:FILE, hf:ORG/NAME, parts:NAME, or one of --list.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", help="Folder of the images of pairs:FILE, or the one for a benchmark."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Stop after N images.")] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Only part i of n, as on one of n machines."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for the URLs that failed before.")
    ] = False,
    min_success: Annotated[
        float | None,
        typer.Option(
            "--min-success", metavar="SHARE", help="Fail below this share of usable images (0.5)."
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show all sources, with size, licence and origin.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Get captioned images, benchmarks and weights, or draw the built-in toy world.

    Captioned images become shards of a pairs artifact; unusable ones are skipped and counted by
    reason. The same command run again goes on where an interrupted one stopped.
    """
    from sseg_cli.sources import show_sources
    from sseg_core.config import DownloadConfig
    from sseg_core.data.sources import BENCHMARKS, WEIGHTS

    if list_:
        show_sources(as_json=as_json)
        return
    if source is None:
        raise typer.BadParameter("Name a source, such as toyworld; --list shows all.")
    configuration = changed(
        configured(DownloadConfig(source=source), config, set_),
        root=None if root is None else str(root),
        limit=limit,
        part=part,
        min_success=min_success,
    )
    store = settings_of(context).open_store()
    kind, _, argument = source.partition(":")
    benchmark = next((known for known in BENCHMARKS if known.name == kind), None)
    weights = next((known for known in WEIGHTS if known.name == kind), None)
    if benchmark is None and weights is None:
        _pairs(configuration, store, name, retry_failed=retry_failed, as_json=as_json, plan=dry_run)
        return
    if retry_failed or {limit, part, min_success, name} != {None}:
        raise typer.BadParameter(
            f"{kind} is no set of captioned images: only --root, --dry-run and --json go with it."
        )
    if benchmark is not None:
        folder = Path("sseg-data", benchmark.folder) if root is None else root
        _benchmark(benchmark, folder, argument, store, as_json=as_json, plan=dry_run)
    elif weights is not None:
        _weights(weights, argument, as_json=as_json, plan=dry_run)


def _pairs(
    config: DownloadConfig,
    store: ArtifactStore,
    name: str | None,
    *,
    retry_failed: bool,
    as_json: bool,
    plan: bool,
) -> None:
    from sseg_cli.console import show_artifact, show_progress
    from sseg_cli.sources import show_download_plan
    from sseg_core.stages import download as stage

    with show_progress() as progress:
        if plan:
            packer = stage.open_packer(config, store, progress=progress)
            planned = packer.plan(config, store.root)
        else:
            artifact = stage.run(
                config, store, name=name, retry_failed=retry_failed, progress=progress
            )
    if plan:
        show_download_plan(planned, as_json=as_json, config=config.model_dump(mode="json"))
        return
    made = artifact.manifest.name
    next_step = f"sseg pseudomask --pairs {made}"
    if config.part is not None:
        whole = made.removesuffix(f"-{config.part.replace('/', 'of')}")
        next_step = f"the other parts, then sseg download parts:{whole}"
    show_artifact(artifact, next_step, as_json=as_json)


def _benchmark(
    source: BenchmarkSource,
    root: Path,
    argument: str,
    store: ArtifactStore,
    *,
    as_json: bool,
    plan: bool,
) -> None:
    from sseg_cli.console import show_progress
    from sseg_cli.sources import show_download_plan, show_fetched
    from sseg_core.stages import download_benchmark as stage

    planned = stage.plan(source, root)
    if plan:
        show_download_plan(planned, as_json=as_json)
        return
    imagenet = Path(argument).expanduser() if argument else None
    with show_progress() as progress:
        progress.message(planned.sentence())
        planned.check_space()
        made = stage.run(source, root, store=store, imagenet=imagenet, progress=progress)
    facts = {
        "kind": "benchmark",
        "name": made.name,
        "root": str(made.root),
        "images": made.images,
        "fetched": list(made.fetched),
    }
    steps = [f"sseg eval --benchmark {name} --root {made.root}" for name in made.images]
    show_fetched(facts, steps, as_json=as_json)


def _weights(source: WeightSource, argument: str, *, as_json: bool, plan: bool) -> None:
    from sseg_cli.console import show_progress
    from sseg_cli.sources import show_download_plan, show_fetched
    from sseg_core.stages import download_weights as stage

    file = Path(argument).expanduser() if argument else None
    planned = stage.plan(source, file)
    if plan:
        show_download_plan(planned, as_json=as_json)
        return
    with show_progress() as progress:
        progress.message(planned.sentence())
        progress.message(f"licence: {source.licence}; terms: {source.terms}")
        planned.check_space()
        made = stage.run(source, file, progress=progress)
    facts = {
        "kind": "weights",
        "name": made.name,
        "repository": made.repository,
        "files": [str(path) for path in made.files],
        "bytes": made.bytes,
        "sha256": made.sha256,
        "from": made.origin,
    }
    show_fetched(facts, [], as_json=as_json)
