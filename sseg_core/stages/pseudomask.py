"""`sseg pseudomask`: pairs in, label maps out, shard by shard.

Every shard of the pairs gives a shard of the same name that holds `KEY.mask.png`, a label map on
the token grid, for every usable image, in the same order. A rerun of an interrupted command makes
the missing shards only, and any number of processes and machines may run the same command on one
store: each shard is made by one of them, and all return the one artifact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.device import available_cores, pick_device
from sseg_core.draft import program_version
from sseg_core.errors import ConfigError, DataError
from sseg_core.pseudomask.features import licence, weights_at_hand
from sseg_core.pseudomask.pipeline import ShardMaker, Tally
from sseg_core.pseudomask.plan import MaskPlan, plan
from sseg_core.pseudomask.preview import (
    MaskFacts,
    build_preview,
    preview_samples,
    render_report,
)
from sseg_core.pseudomask.workers import Report, Work, run_processes, run_worker
from sseg_core.tracking import SILENT, Progress

SHEET = "preview.png"
REPORT = "report.html"


def run(
    config: PseudomaskConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    processes: int = 1,
    preview: int = 0,
    progress: Progress = SILENT,
) -> Artifact:
    """Cluster the images of a pairs artifact or of shards, and publish a `masks` artifact.

    Stats: `images`, `skipped` by reason, `segments_per_image`, `features`, `clustering`, `masks`
    (K), `shards` (images by shard), `bytes_per_mask` on disk, `png_bytes_per_mask`, and of the
    shards that this command made `images_per_second` from tar to tar, with its `device` and
    `processes`. With `preview` the artifact also holds a contact sheet, `preview.png`, and a page
    that shows it with these figures, `report.html`. With `config.out` also `urls` (place, SHA-256
    and bytes by shard).

    Args:
        config: what to make.
        store: where to.
        name: of the artifact; default: that of the pairs.
        device: `cpu`, `cuda`, `cuda:1`, ...; several processes take GPU 0, 1, ... of `cuda`.
        processes: worker processes; one works in this process.
        preview: the first so many images to show with their masks, 0 for none.
        progress: told of every batch.

    Raises:
        ArtifactError: no such pairs, or they were changed; weights that cannot be used.
        ConfigError: unknown features, or an image size that does not suit them.
        DataError: too many samples are unusable, a file cannot be read or written, or all worker
            processes were killed.
    """
    the_plan = plan(config, store, name=name)
    resolved = the_plan.config
    progress.message(
        f"pairs {resolved.pairs}, features {resolved.features}, clustering {resolved.clustering}"
    )
    if resolved.weights is None and not weights_at_hand(resolved.features):
        progress.message(f"weights of {resolved.features}: from the hub")
    if terms := licence(resolved.features):
        progress.message(f"licence of the weights of {resolved.features}: {terms}")
    devices = worker_devices(device, processes)
    maker = None
    if len(devices) == 1:
        # Before anything is written: weights that cannot be used show now.
        maker = ShardMaker(resolved, pick_device(device), progress, threads=available_cores())
    draft = store.shared_draft("masks", the_plan.name, the_plan.identity, the_plan.parents)
    work = Work(resolved, draft, the_plan.shards)
    progress.start("pseudomask", the_plan.images, "images")
    if kept := [shard for shard in the_plan.shards if shard in draft.finished]:
        progress.message(f"{len(kept)} of {len(the_plan.shards)} shards are there already")
        progress.advance(sum(draft.finished[shard]["images"] for shard in kept))
    if maker is None:
        reports = run_processes(work, devices, progress)
    else:
        reports = [run_worker(work, maker, progress)]
    if artifact := draft.published():
        progress.message(f"{artifact.reference} was published by another process")
        return artifact
    stats = {**_stats(work, the_plan), **_speed(reports, devices)}
    if preview:
        _write_preview(work, the_plan, stats, preview)
    return draft.publish(stats)


def worker_devices(device: str, processes: int) -> tuple[str, ...]:
    """Return the device of each process.

    Raises:
        ConfigError: fewer GPUs than processes, or one GPU for several.
    """
    if processes == 1:
        return (device,)
    kind = pick_device(device)
    if kind.type == "cpu":
        return ("cpu",) * processes
    if kind.type != "cuda" or kind.index is not None:
        raise ConfigError(
            f"{processes} processes cannot share the device {device!r}.",
            "Use --gpus N for one process on each of N GPUs, or --device cpu.",
        )
    devices = tuple(f"cuda:{index}" for index in range(processes))
    pick_device(devices[-1])
    return devices


def _stats(work: Work, the_plan: MaskPlan) -> dict[str, Any]:
    """Return what became of all images; the same whoever made them."""
    notes = {shard: work.draft.finished[shard] for shard in the_plan.shards}
    total = Tally()
    for note in notes.values():
        total.add(Tally.from_note(note))
    total.check(the_plan.config.max_skip_rate)
    if not total.images:
        raise DataError(f"{the_plan.config.pairs} holds no usable image.", "Make the pairs again.")
    stats = {
        "images": total.images,
        "skipped": dict(total.skipped),
        "segments_per_image": round(total.segments / total.images, 3),
        "features": the_plan.config.features,
        "clustering": the_plan.config.clustering,
        "masks": the_plan.config.masks,
        "bytes_per_mask": round(total.shard_bytes / total.images, 1),
        "png_bytes_per_mask": round(total.png_bytes / total.images, 1),
        "shards": {shard: note["images"] for shard, note in notes.items()},
    }
    if the_plan.config.out is not None:
        stats["urls"] = {
            shard: {"url": note["url"], "sha256": note["sha256"], "bytes": note["shard_bytes"]}
            for shard, note in notes.items()
        }
    return stats


def _write_preview(work: Work, the_plan: MaskPlan, stats: dict[str, Any], count: int) -> None:
    """Write the contact sheet and the page of the first images into the artifact."""
    urls = stats.get("urls", {})
    shards = (
        (location, urls[shard]["url"] if urls else work.draft.path / shard)
        for shard, location in the_plan.shards.items()
    )
    samples = preview_samples(shards, count)
    names = ("features", "clustering", "masks", "images", "skipped", "segments_per_image")
    facts = MaskFacts(
        name=the_plan.name,
        **{name: stats[name] for name in (*names, "images_per_second", "bytes_per_mask")},
        shards=len(stats["shards"]),
        version=program_version(),
    )
    build_preview(samples).save(work.draft.partial(SHEET), "PNG")
    work.draft.commit(SHEET)
    page = render_report(samples, facts)
    work.draft.partial(REPORT).write_text(page, encoding="utf-8")
    work.draft.commit(REPORT)


def _speed(reports: Sequence[Report], devices: Sequence[str]) -> dict[str, Any]:
    rates = [report.images / report.seconds for report in reports if report.images]
    return {
        "images_per_second": round(sum(rates), 2),
        "device": _device_name(devices[0]),
        "processes": len(devices),
    }


def _device_name(device: str) -> str:
    picked = pick_device(device)
    return torch.cuda.get_device_name(picked) if picked.type == "cuda" else picked.type
