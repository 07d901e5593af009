"""How the sources of `sseg download` are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from sseg_cli.console import facts_table, show_json, stdout, visible
from sseg_core.data.fetch.plan import DownloadPlan, size_text
from sseg_core.data.sources import (
    BENCHMARKS,
    PAIRS,
    WEIGHTS,
    BenchmarkSource,
    PairSource,
    WeightSource,
)

_YOURS = (
    ("toyworld", "the procedural world of sseg demo", "drawn here"),
    ("pairs:FILE", "your images, with a jsonl, csv or tsv of captions", "your disk"),
    ("urls:FILE", "a tsv, csv, jsonl or parquet of image URLs and captions", "the web"),
    ("hf:ORG/NAME", "any webdataset of images and captions", "the hub"),
    ("parts:NAME", "the parts NAME-1of4, ... that --part made, put together", "your store"),
)


def sources_json() -> dict[str, Any]:
    """Return all sources, as `--list --json` prints them."""
    pairs = [
        _entry("pairs", s, s.bytes, f"hub: {s.repository}" if s.repository else _host(s.terms))
        for s in PAIRS
    ]
    benchmarks = [
        _entry(
            "benchmark",
            s,
            None if any(part.file.bytes is None for part in s.parts) else _bytes(s),
            ", ".join(dict.fromkeys(_host(part.file.url) for part in s.parts)),
        )
        for s in BENCHMARKS
    ]
    weights = [_entry("weights", s, s.bytes, f"hub: {s.repository}") for s in WEIGHTS]
    yours = [
        {"name": name, "kind": "pairs", "contents": contents, "from": origin}
        for name, contents, origin in _YOURS
    ]
    return {"sources": [*yours, *pairs, *benchmarks, *weights]}


def show_sources(*, as_json: bool) -> None:
    """Print all sources: name, contents, size, licence, and where they come from."""
    if as_json:
        show_json(sources_json())
        return
    console = stdout()
    titles = {
        "pairs": "Images with captions, into a pairs artifact",
        "benchmark": "Benchmarks, into a folder for sseg eval --root",
        "weights": "Weights, into the caches where every stage finds them",
    }
    entries: list[dict[str, Any]] = sources_json()["sources"]
    for kind, title in titles.items():
        table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
        table.title_style = "bold"
        table.add_column("name", style="cyan", no_wrap=True)
        for column in ("contents", "size", "licence", "from"):
            table.add_column(column, overflow="fold", no_wrap=column == "size")
        for entry in entries:
            if entry["kind"] == kind:
                size = size_text(entry["bytes"]) if entry.get("bytes") else ""
                texts = (entry["contents"], size, entry.get("licence", ""), entry["from"])
                table.add_row(entry["name"], *map(Text, texts))
        console.print(table)
        console.print()


def show_download_plan(plan: DownloadPlan, *, as_json: bool, **more: Any) -> None:
    """Print what a download would do."""
    facts: dict[str, Any] = {
        "source": plan.source,
        "contents": plan.contents,
        "from": plan.origin,
        "licence": plan.licence or None,
        "terms": plan.terms or None,
        "into": str(plan.folder),
        "images": plan.images,
        "download_bytes": plan.download_bytes,
        "disk_bytes": plan.disk_bytes,
        "free_bytes": plan.free_bytes,
        "notes": list(plan.notes),
    }
    if as_json:
        show_json({"stage": "download", "inputs": facts, **more})
        return
    rows = {
        name.removesuffix("_bytes"): size_text(value) if name.endswith("_bytes") else value
        for name, value in facts.items()
        if value is not None and name != "notes"
    }
    console = stdout()
    console.print(Text("download: this would run", style="bold"))
    console.print(facts_table(rows))
    for note in plan.notes:
        console.print(Text(f"  {visible(note)}"))


def show_fetched(facts: Mapping[str, Any], next_steps: Sequence[str], *, as_json: bool) -> None:
    """Print what was fetched outside of the store, and what comes next."""
    if as_json:
        show_json(facts)
        return
    console = stdout()
    console.print(facts_table({name: _shown(name, value) for name, value in facts.items()}))
    for step in next_steps:
        console.print(Text.assemble("next: ", (step, "bold")))


def _shown(name: str, value: Any) -> Any:
    if name == "bytes":
        return size_text(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count:,}" for key, count in value.items())
    return ", ".join(value) if isinstance(value, list) else value


def _entry(
    kind: str, source: PairSource | BenchmarkSource | WeightSource, size: int | None, origin: str
) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": kind,
        "contents": source.contents,
        "bytes": size,
        "licence": source.licence,
        "terms": source.terms,
        "from": origin,
    }


def _bytes(source: BenchmarkSource) -> int:
    return sum(part.file.bytes or 0 for part in source.parts)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
