"""`sseg download`: captioned images in, shards of pairs out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig
from sseg_core.data.fetch.duplicates import count_duplicates
from sseg_core.data.fetch.plan import DownloadPlan
from sseg_core.data.fetch.tally import Tally
from sseg_core.data.sources import BENCHMARKS, PAIRS, WEIGHTS
from sseg_core.draft import Draft
from sseg_core.errors import ConfigError, did_you_mean, printable
from sseg_core.stages.earlier_shards import SHARD_TABLE, open_parts, take_up
from sseg_core.stages.pack_hub import open_hub
from sseg_core.stages.pack_urls import open_redcaps_urls, open_urls, table_of
from sseg_core.stages.pairs_packer import PairsPacker, identity_of
from sseg_core.tracking import SILENT, Progress


def run(
    config: DownloadConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    retry_failed: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Pack the images and captions of a source, and publish a `pairs` artifact.

    `shards.json` of the artifact tells what became of the samples of each shard. Stats: `images`,
    `captions`, `bytes` of the images, `shards`, `skipped` by reason, up to five names of skipped
    `examples` for each, and `fingerprint`, a digest of what the shards hold; of URLs also
    `duplicates`; where they are known, `licence` and `terms`.

    Args:
        config: what is packed, and how.
        store: where the artifact goes.
        name: of the artifact; default: that of the source.
        retry_failed: ask again for the URLs that failed in an earlier run of the same command.
        progress: is told of each image.

    Raises:
        ConfigError: there is no such source, or it lacks something.
        DataError: the source cannot be used (nothing is written), too many of its images are
            unusable, or a shard cannot be written.
        ArtifactError: parts are missing, or do not belong together.
    """
    packer = open_packer(config, store, retry_failed=retry_failed, progress=progress)
    part, count = config.part_of
    name = name or (packer.name if count == 1 else f"{packer.name}-{part}of{count}")
    described = {**config.model_dump(mode="json"), **packer.identity}
    identity = identity_of(described)
    with store.draft("pairs", name, described, packer.parents, identity=identity) as draft:
        plan = packer.plan(config, store.root)
        progress.message(plan.sentence())
        plan.check_space(sum(note.get("bytes", 0) for note in draft.finished.values()))
        if retry_failed:
            take_up(draft, store, name, identity, progress)
        if plan.licence:
            progress.message(f"licence: {plan.licence}; terms: {plan.terms or plan.origin}")
        shards = packer.pack(config, draft, progress)
        return _publish(draft, shards, plan, progress)


def open_packer(
    config: DownloadConfig,
    store: ArtifactStore,
    *,
    retry_failed: bool = False,
    progress: Progress = SILENT,
) -> PairsPacker:
    """Return what packs the source that the configuration names; see `run`."""
    kind, _, argument = config.source.partition(":")
    if retry_failed and kind not in {"urls", "redcaps"}:
        raise ConfigError(
            f"{printable(config.source)} has no URLs that could be asked for again.",
            "Leave --retry-failed out: the same command goes on where it stopped.",
        )
    if kind == "parts":
        return open_parts(argument, store)
    if kind == "urls":
        return open_urls(argument, config, retry_failed=retry_failed)
    if kind == "hf" or any(config.source == s.name for s in PAIRS if s.repository):
        return open_hub(config)
    if kind == "redcaps":
        folder = store.root / ".downloads"
        return open_redcaps_urls(argument, config, folder, progress, retry_failed=retry_failed)
    if kind == "pairs" or config.source == "toyworld":
        # It brings torch along, which takes seconds and which the others do without.
        from sseg_core.stages.pack_samples import open_pairs, open_toyworld

        return open_pairs(argument, config) if kind == "pairs" else open_toyworld(config)
    known = ("toyworld", "pairs:FILE", "urls:FILE", "hf:ORG/NAME", "parts:NAME")
    names = (source.name for source in (*PAIRS, *BENCHMARKS, *WEIGHTS))
    hint = did_you_mean(kind, (*known, *names))
    raise ConfigError(f"There is no source {printable(config.source)!r}.", hint)


def _publish(
    draft: Draft, shards: Sequence[str], plan: DownloadPlan, progress: Progress
) -> Artifact:
    tallies = {shard: Tally.from_note(draft.finished[shard]) for shard in shards}
    text = json.dumps({shard: tally.note() for shard, tally in tallies.items()}, indent=1)
    draft.partial(SHARD_TABLE).write_text(text, encoding="utf-8")
    draft.commit(SHARD_TABLE)
    stats: dict[str, Any] = {
        **Tally.of(tallies.values()).note(),
        "shards": len(shards),
        "fingerprint": _fingerprint(draft, shards),
        **{
            name: value
            for name, value in (("licence", plan.licence), ("terms", plan.terms))
            if value
        },
    }
    tables = [draft.path / table_of(shard) for shard in shards]
    if tables and tables[0].exists():
        progress.message("counting duplicates")
        stats["duplicates"] = count_duplicates(tables)
    return draft.publish(stats)


def _fingerprint(draft: Draft, shards: Sequence[str]) -> str:
    """Return a digest of what the shards hold: equal for equal images, captions and order."""
    lines = "".join(f"{draft.sha256(shard)}\n" for shard in sorted(shards))
    return hashlib.sha256(lines.encode()).hexdigest()
