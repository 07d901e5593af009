"""What the terminal shows of a `scores` artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from sseg_cli.console import (
    artifact_json,
    facts_table,
    show_json,
    show_place,
    stdout,
    visible,
)

if TYPE_CHECKING:
    from sseg_core.artifacts import Artifact

_ALL_CLASSES = 30  # more than that many are not all shown
_EXTREMES = 5
_BARS = " .:-=+*#"  # ASCII, for terminals that have no blocks

_FACTS = {
    "images": "images",
    "constant_miou": "constant mIoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "freq. weighted IoU",
    "boundary_f": "boundary F",
    "images_per_second": "images/s",
    "milliseconds_per_image": "ms/image",
    "peak_memory_mb": "peak memory MB",
}


def show_scores(artifact: Artifact) -> None:
    """Print the scores of one model: classes, means, protocol, notes."""
    stats = artifact.manifest.stats
    console = stdout()
    labels = len(stats["iou"])
    what = f"{stats['model']} on {stats['benchmark']} {stats['split']}"
    scored = stats["classes_scored"]
    classes = f"{scored} of {labels} classes" if scored < labels else f"{labels} classes"
    console.print(Text(visible(f"{what}, {classes}"), style="bold"))
    if stats["source"]:
        console.print(Text(visible(f"truth from {stats['source']}"), style="dim"))
    console.print(_class_table(stats))
    if labels > _ALL_CLASSES:
        console.print("best and worst classes; all of them are in scores.json", style="dim")
    low, high = stats["miou_interval"]
    console.print(
        Text.assemble(
            ("mIoU ", "cyan"), (f"{stats['miou']:.2f}", "bold"), f"  (95 % {low:.1f} to {high:.1f})"
        )
        if stats["miou"] is not None
        else Text("mIoU none: no pixel counts")
    )
    subsets = {name: name.replace("miou_", "mIoU ") for name in stats if name.startswith("miou_")}
    subsets.pop("miou_interval")
    rows = {title: stats[key] for key, title in {**subsets, **_FACTS}.items() if key in stats}
    console.print(facts_table({k: "none" if v is None else v for k, v in rows.items()}))
    for reason, count in stats["skipped"].items():
        console.print(Text(f"  skipped {count}: {visible(str(reason))}", style="yellow"))
    _show_protocol(stats["protocol"])
    for note in stats["notes"]:
        console.print(Text(visible(f"note: {note}"), style="dim"))
    if "sweep" in stats:
        _show_sweep(stats["sweep"])
    if "check" in stats:
        _show_check(stats["check"])
    _show_files(artifact)
    show_place(artifact)


def show_comparison(artifact: Artifact, *, as_json: bool) -> None:
    """Print several scores side by side."""
    if as_json:
        show_json(artifact_json(artifact))
        return
    stats = artifact.manifest.stats
    console = stdout()
    rows = {
        run["reference"]: f"{run['miou']:.2f}  (95 % {run['low']:.1f} to {run['high']:.1f})"
        for run in stats["runs"]
    }
    console.print(facts_table(rows))
    for pair in stats["differences"]:
        verdict = "differ" if pair["low"] > 0 or pair["high"] < 0 else "may be equal"
        console.print(
            Text(
                visible(
                    f"{pair['first']} - {pair['second']}: {pair['difference']:+.2f} "
                    f"(95 % {pair['low']:+.1f} to {pair['high']:+.1f}, paired): {verdict}"
                )
            )
        )
    if stats["apart"]:
        apart = f"warning: the scores do not compare, they differ in {', '.join(stats['apart'])}"
        console.print(Text(visible(apart), style="yellow"))
    _show_files(artifact)
    show_place(artifact)


def _class_table(stats: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("class", overflow="fold")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    names: list[str | None] = list(stats["iou"])
    if len(names) > _ALL_CLASSES:
        known = sorted(
            (name for name in names if name and stats["iou"][name] is not None),
            key=lambda name: -stats["iou"][name],
        )
        names = [*known[:_EXTREMES], None, *known[_EXTREMES:][-_EXTREMES:]]
    for name in names:
        if name is None:
            table.add_row("...")
        else:
            iou, accuracy = stats["iou"][name], stats["accuracy"][name]
            table.add_row(Text(visible(name)), _percent(iou), _percent(accuracy))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _show_protocol(protocol: Mapping[str, Any]) -> None:
    shown = {
        key: value
        for key, value in protocol.items()
        if key not in {"name", "version", "source", "words", "articles"}
        and value not in (None, [], {}, False, "none", 0)
    }
    if words := protocol.get("words"):
        shown["words"] = f"of {len(words)} classes"
    if len(shown.get("background_words", [])) > 1:
        shown["background_words"] = len(shown["background_words"])
    facts = ", ".join(f"{key}={_plain(value)}" for key, value in shown.items())
    name = f"{protocol['name']} v{protocol['version']}"
    stdout().print(Text.assemble(("protocol ", "cyan"), visible(f"{name}: {facts}")))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _show_sweep(sweep: Mapping[str, Any]) -> None:
    miou: Sequence[float | None] = sweep["miou"][::2]
    top = max((value for value in sweep["miou"] if value is not None), default=0.0) or 1.0
    last = len(_BARS) - 1
    curve = "".join(_BARS[round(last * (value or 0.0) / top)] for value in miou)
    console = stdout()
    console.print(Text.assemble(("thresholds 0 to 1 ", "cyan"), f"|{curve}|"))
    console.print(
        Text(
            f"best {sweep['best_miou']:.2f} at {sweep['best_threshold']:.2f}: tuned on this split, "
            "no score to report",
            style="yellow",
        )
    )


def _show_check(check: Mapping[str, Any]) -> None:
    style = {"agrees": "green", "above": "green", "below": "yellow"}.get(check["verdict"], "yellow")
    console = stdout()
    console.print(Text(visible(check["sentence"]), style=style))


def _show_files(artifact: Artifact) -> None:
    for file in ("report.html", "comparison.html"):
        if (artifact.path / file).exists():
            stdout().print(Text(f"report: {artifact.path / file}"), soft_wrap=True)


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


def show_table(artifact: Artifact) -> None:
    """Print the table of all generators (S-Seg Table 1), one below the other where it is narrow."""
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
