"""`sseg demo`: every stage once, on the toy world, and a report of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.config import (
    DemoConfig,
    DownloadConfig,
    EvalConfig,
    MasksConfig,
    PseudomaskConfig,
    ToyWorldConfig,
    TrainConfig,
    build_config,
)
from sseg_core.data.toyworld import CLASS_COLORS, CLASSES, render_scene
from sseg_core.device import pick_device
from sseg_core.evaluation.report.demo import DemoReport, GalleryRow, write_report
from sseg_core.evaluation.rivals.oracle import square_images
from sseg_core.inference.segmenter import Segmenter
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.recipes import tiny
from sseg_core.stages import download, evaluate, pseudomask, train
from sseg_core.stages.record import StageRecord
from sseg_core.tracking import SILENT, Progress, read_metrics

REPORT = "report.html"
NAME = "demo"
FEATURES = "texture"
ORACLE = f"oracle:{FEATURES}"
_SIZES = "--set {0}image_size=96 --set {0}grid=48"
COMMANDS = (
    "sseg download toyworld --name demo",
    f"sseg pseudomask --pairs demo --features {FEATURES} {_SIZES.format('')} --name demo",
    "sseg train --recipe tiny --masks demo --name demo",
    "sseg eval --benchmark toyworld --model demo",
    f"sseg eval --benchmark toyworld --model {ORACLE} {_SIZES.format('oracle.')}",
)
"""What the demo runs, as one would type it."""

NEXT_COMMANDS = ('sseg predict YOUR_PHOTO.jpg --model demo --classes "house, tree, sky, grass"',)


@dataclass(frozen=True)
class _Stages:
    """What the stages left."""

    checkpoint: Artifact
    masks: Artifact
    scores: Artifact
    oracle: Artifact
    seconds: float


def run(
    config: DemoConfig,
    store: ArtifactStore,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Run the pipeline on the toy world, and publish a `scores` artifact with `report.html`.

    An interrupted demo goes on with the stage it was in. Stats are those of the evaluation, and
    `oracle_miou`, `train_images_per_second` and `seconds` of all stages together.
    """
    values = config.model_dump(mode="json")
    with store.draft("scores", f"{NAME}-report", values) as draft:
        stages = _run_stages(config, store, draft, device, progress)
        progress.start("report", config.gallery, "scenes")
        gallery = _gallery(config, stages, device, progress)
        scores, trained = stages.scores.manifest.stats, stages.checkpoint.manifest.stats
        stats = {
            **scores,
            "oracle_miou": stages.oracle.manifest.stats["miou"],
            "train_images_per_second": trained["images_per_second"],
            "seconds": round(stages.seconds, 1),
        }
        metrics_path = stages.checkpoint.file("metrics.jsonl")
        report = DemoReport(
            class_names=CLASSES,
            class_colors=CLASS_COLORS,
            miou=scores["miou"],
            miou_objects=scores["miou_objects"],
            pixel_accuracy=scores["pixel_accuracy"],
            oracle_miou=stats["oracle_miou"],
            iou=scores["iou"],
            train_images=config.scenes,
            val_images=scores["images"],
            seconds=stages.seconds,
            images_per_second=trained["images_per_second"],
            metrics=read_metrics(metrics_path),
            gallery=gallery,
            commands=COMMANDS,
            next_commands=NEXT_COMMANDS,
            version=stages.checkpoint.manifest.sseg_version,
        )
        write_report(draft.partial(REPORT), report)
        draft.commit(REPORT)
        return draft.publish(stats, [stages.checkpoint, stages.masks])


def training_config(config: DemoConfig) -> TrainConfig:
    """Return the recipe `tiny` with the demo's steps and seed."""
    return tiny().model_copy(update={"steps": config.steps, "seed": config.seed})


def _masks_config(config: DemoConfig) -> PseudomaskConfig:
    """The generator without weights, so that the demo is the same on every machine."""
    size = ToyWorldConfig().image_size
    return PseudomaskConfig(features=FEATURES, image_size=size, grid=size // 2, seed=config.seed)


def _run_stages(
    config: DemoConfig, store: ArtifactStore, draft: Draft, device: str, progress: Progress
) -> _Stages:
    record = StageRecord(draft.scratch, store)
    world = ToyWorldConfig(scenes=config.scenes, seed=config.seed)
    pairs = record.once(
        "pairs",
        NAME,
        lambda: download.run(
            DownloadConfig(source="toyworld", toyworld=world), store, name=NAME, progress=progress
        ),
    )
    masks = record.once(
        "masks",
        NAME,
        lambda: pseudomask.run(
            _masks_config(config).model_copy(update={"pairs": pairs.reference}),
            store, name=NAME, device=device, progress=progress,
        ),
    )  # fmt: skip
    to_train = training_config(config).model_copy(
        update={"masks": MasksConfig(stored=masks.reference)}
    )
    checkpoint = record.once(
        "checkpoint",
        NAME,
        lambda: train.run(to_train, store, name=NAME, device=device, progress=progress),
    )

    def score(model: str, name: str) -> Artifact:
        oracle = _masks_config(config) if model == ORACLE else PseudomaskConfig()
        held_out = EvalConfig(limit=config.val_scenes, seed=config.seed, model=model, oracle=oracle)
        return evaluate.run(held_out, store, name=name, device=device, progress=progress)

    scores = record.once("scores", NAME, lambda: score(checkpoint.reference, NAME))
    oracle_name = f"{NAME}-oracle"
    oracle = record.once("scores", oracle_name, lambda: score(ORACLE, oracle_name))
    return _Stages(checkpoint, masks, scores, oracle, record.seconds)


def _gallery(
    config: DemoConfig, stages: _Stages, device: str, progress: Progress
) -> Sequence[GalleryRow]:
    """The first held-out scenes, none chosen."""
    masks = build_config(PseudomaskConfig, stages.masks.manifest.config)
    generator = PseudoMaskGenerator(masks, pick_device(device))
    segmenter = Segmenter.load(str(stages.checkpoint.path), device=device)
    rows = []
    for index in range(min(config.gallery, config.val_scenes)):
        scene = render_scene(config.seed, index, ToyWorldConfig().image_size, "val")
        images = square_images([scene.image], masks.image_size, pick_device(device))
        rows.append(
            GalleryRow(
                image=scene.image,
                pseudo_mask=generator(images, [f"{index:06d}"])[0].cpu().numpy(),
                prediction=segmenter.segment(scene.image, CLASSES).label_map,
                truth=scene.label_map.astype(np.int16),
                caption=scene.captions[0],
            )
        )
        progress.advance()
    return rows
