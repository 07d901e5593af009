"""`sseg eval --model oracle:all`: every generator of S-Seg's Table 1 that can run here."""

from __future__ import annotations

import json
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.distributed import world_size
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.contestants import oracle_contestant, refuse_model_options
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.rivals.table1 import ALL, GENERATORS, Generator, check_table
from sseg_core.evaluation.scores import score
from sseg_core.stages.evaluate import SCORES, default_name, write_text
from sseg_core.tracking import SILENT, Progress


def run_table(
    config: EvalConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Score the generators one after the other, and publish one `scores` artifact.

    Its stats hold `rows`: for each generator the stats of `sseg eval`, or `missing`, a sentence
    that says what it lacks; with `generator`, `supervision`, `masks` and, where the paper has
    them, `paper_miou` and `paper_milliseconds_per_image`. Run again after an interruption, it
    makes only the rows that are not there.

    Raises:
        ConfigError: no such benchmark, an option that the rows decide themselves, or several
            processes.
        DataError: the benchmark's files are missing or none of them can be read.
    """
    if world_size() > 1:
        raise ConfigError(f"{ALL} measures times and runs in one process.", "Leave out --procs.")
    check_table(config)
    refuse_model_options(config)
    for option in ("report", "check"):
        if getattr(config, option):
            raise ConfigError(
                f"--{option} is for one model, not for {ALL}.",
                "Give it with --model oracle:FEATURES.",
            )
    benchmark = open_benchmark(config, store, progress)
    values = config.model_dump(mode="json")
    with store.draft("scores", name or default_name(ALL, benchmark), values) as draft:
        rows = []
        for number, generator in enumerate(GENERATORS, start=1):
            file = f"row-{number}.json"
            if file not in draft.finished:
                row = _row(generator, config, benchmark, device, progress)
                if row["missing"] is not None:
                    rows.append(row)
                    continue
                draft.partial(file).write_text(json.dumps(row, indent=1), encoding="utf-8")
                draft.commit(file, row)
            rows.append(draft.finished[file])
        stats: dict[str, Any] = {
            "benchmark": benchmark.name,
            "split": benchmark.split,
            "source": benchmark.source,
            "model": ALL,
            "images": max(row.get("images", 0) for row in rows),
            "rows": rows,
        }
        if config.limit is not None:
            stats["limit"] = config.limit
        write_text(draft, SCORES, json.dumps(stats, indent=1))
        return draft.publish(stats)


def _row(
    generator: Generator, config: EvalConfig, benchmark: Benchmark, device: str, progress: Progress
) -> dict[str, Any]:
    row = {
        "generator": generator.name,
        "supervision": generator.supervision,
        "masks": config.oracle.masks,
        "paper_miou": generator.paper_miou.get(benchmark.name),
        "paper_milliseconds_per_image": generator.paper_milliseconds,
        "missing": generator.lacks(),
    }
    if row["missing"] is not None:
        return row
    try:
        masks = generator.configured(config.oracle)
        entrant = oracle_contestant(config, masks, benchmark, device)
        _, stats = score(entrant, benchmark, device, task=generator.name, progress=progress)
    except (ConfigError, ArtifactError) as error:
        return {**row, "missing": str(error)}
    return {**row, **stats}
