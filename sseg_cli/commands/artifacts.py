"""`sseg artifacts`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sseg_cli.options import JsonOption, settings_of

if TYPE_CHECKING:
    from sseg_core.artifacts import Artifact, ArtifactStore

EXAMPLES = """Examples:

sseg artifacts

sseg artifacts show checkpoint/tiny

sseg artifacts verify sseg-artifacts/masks/toyworld/v1
"""


class Action(StrEnum):
    """What to do with the artifacts."""

    LIST = "list"
    SHOW = "show"
    VERIFY = "verify"


def artifacts(
    context: typer.Context,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="KIND/NAME, KIND/NAME:vN, or a folder.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List all artifacts, show one with its lineage, or verify its hashes."""
    from sseg_core.errors import ConfigError

    store = settings_of(context).open_store()
    if action == Action.LIST:
        _list(store, as_json=as_json)
        return
    if not reference:
        raise ConfigError(
            f"sseg artifacts {action} needs a reference.",
            "sseg artifacts lists the ones there are.",
        )
    artifact = _find(store, reference)
    if action == Action.SHOW:
        _show(store, artifact, as_json=as_json)
    else:
        _verify(artifact, as_json=as_json)


def _find(store: ArtifactStore, reference: str) -> Artifact:
    from sseg_core.artifacts import read_artifact
    from sseg_core.manifest import KINDS

    kind, _, rest = reference.partition("/")
    for known in KINDS:
        if kind == known and rest and "/" not in rest:
            return store.find(rest, known)
    from pathlib import Path

    return read_artifact(Path(reference))


def _list(store: ArtifactStore, *, as_json: bool) -> None:
    from sseg_cli.console import show_json, show_note, stdout

    found = store.artifacts()
    if as_json:
        show_json({"artifacts": [_row(artifact) for artifact in found]})
        return
    if not found:
        show_note(f"There are no artifacts in {store.root}. Make some with: sseg demo")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("kind", "reference", "created", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for artifact in found:
        m = artifact.manifest
        created = m.created[:16].replace("T", " ")
        table.add_row(m.kind, artifact.reference, created, f"{_bytes(artifact) / 1e6:.1f} MB")
    stdout().print(table)


def _row(artifact: Artifact) -> dict[str, str | int]:
    m = artifact.manifest
    return {
        "kind": m.kind,
        "reference": artifact.reference,
        "path": str(artifact.path),
        "created": m.created,
        "bytes": _bytes(artifact),
    }


def _bytes(artifact: Artifact) -> int:
    return sum(entry.bytes for entry in artifact.manifest.files.values())


def _show(store: ArtifactStore, artifact: Artifact, *, as_json: bool) -> None:
    from sseg_cli.console import facts_table, show_json, show_place, stdout

    if as_json:
        show_json(artifact.manifest.model_dump(mode="json", by_alias=True))
        return
    m = artifact.manifest
    console = stdout()
    show_place(artifact)
    console.print(facts_table({"created": m.created, "sseg": m.sseg_version, **_plain(m.stats)}))
    console.print("[bold]made from[/]" if m.parents else "[bold]made from nothing before it[/]")
    for depth, line in _lineage(store, artifact, depth=1):
        console.print("  " * depth + line)
    console.print("[bold]files[/]")
    for name, entry in m.files.items():
        console.print(f"  {name}  {entry.bytes} bytes  {entry.sha256[:12]}")


def _plain(stats: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in stats.items() if not isinstance(value, dict | list)}


def _lineage(store: ArtifactStore, artifact: Artifact, depth: int) -> list[tuple[int, str]]:
    from sseg_core.errors import ArtifactError

    lines = []
    for parent in artifact.manifest.parents:
        line = f"{parent.kind} {parent.name}:v{parent.version}"
        try:
            found = store.parent(artifact, parent.kind)
        except ArtifactError as error:
            lines.append((depth, f"{line} ({error.message})"))
            continue
        lines.append((depth, line))
        lines.extend(_lineage(store, found, depth + 1))
    return lines


def _verify(artifact: Artifact, *, as_json: bool) -> None:
    from sseg_cli.console import show_json, stdout
    from sseg_core.errors import ArtifactError

    problems = artifact.problems()
    if problems and not as_json:
        for problem in problems[1:]:
            stdout().print(problem)
    if as_json:
        show_json({"reference": artifact.reference, "problems": problems})
    if problems and as_json:
        raise typer.Exit(1)
    if problems:
        raise ArtifactError(problems[0], "Make the artifact again.")
    if not as_json:
        count = len(artifact.manifest.files)
        stdout().print(f"{artifact.reference}: all {count} files match their hashes")
