"""The second half of `sseg selftrain`: labels in, the checkpoint of a student out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import LabelConfig, StudentConfig, build_config
from sseg_core.data.label_shards import LabelEntry, read_label_index
from sseg_core.data.labelled_loader import LabelledImages, make_labelled_loader
from sseg_core.device import pick_device
from sseg_core.distributed import rank, world_size
from sseg_core.errors import ArtifactError, ConfigError, printable
from sseg_core.evaluation.contestants import Contestant
from sseg_core.evaluation.evaluator import Rule
from sseg_core.evaluation.examples import Benchmark, LabelMap
from sseg_core.evaluation.rivals.checkpoint import CheckpointRival
from sseg_core.evaluation.rivals.rival import predictor
from sseg_core.evaluation.scores import score
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.labelling.images import UnlabelledImages, open_images
from sseg_core.manifest import HOW_TO_MAKE
from sseg_core.models.student import Student
from sseg_core.models.supervision import licence_of, warm_start_note
from sseg_core.structures import BACKGROUND, VOID, LabelledBatch
from sseg_core.tracking import SILENT, Progress
from sseg_core.training.inputs import Share, share_of_batch
from sseg_core.training.run import Run, carry_out, check_run
from sseg_core.training.student_step import build_student_learner

_LEAST_KEPT = 1.0
"""Percent of the pixels that must count."""


@dataclass(frozen=True)
class StudentPlan:
    """What a student will learn from, resolved before it starts.

    Attributes:
        config: with the classes of the labels.
        labels: the artifact.
        images: that the labels belong to.
        entries: what it learns from.
        held_out: labelled images kept from training.
    """

    config: StudentConfig
    labels: Artifact
    images: UnlabelledImages
    entries: tuple[LabelEntry, ...]
    held_out: tuple[LabelEntry, ...]

    @property
    def teacher(self) -> str:
        """What the model that made the labels is called."""
        return str(self.labels.manifest.stats["teacher"])


def plan(config: StudentConfig, store: ArtifactStore) -> StudentPlan:
    """Resolve what a student learns from.

    Raises:
        ArtifactError: there are no such labels, they were changed, or they are of one image only.
        ConfigError: options that exclude each other.
        DataError: the images of the labels are not where they were.
    """
    check_run(config)
    labels = store.find(config.labels, "labels")
    stats = labels.manifest.stats
    entries = read_label_index(labels.files(".jsonl"))
    if len(entries) < 2:
        raise ArtifactError(
            f"{labels.reference} has labels of {len(entries)} image, which is not enough to learn.",
            "Label more images.",
        )
    _check_labels(labels, entries)
    _check_confidence(labels, config)
    count = min(config.hold_out, len(entries) // 10)
    # Evenly spread, for neighbours in a folder are often alike.
    chosen = {i * len(entries) // count for i in range(count)}
    known = {
        "class_names": tuple(stats["class_names"]),
        "has_background": bool(stats["has_background"]),
    }
    return StudentPlan(
        config=config.model_copy(
            update={
                "labels": labels.reference,
                "model": config.model.model_copy(update=known),
            }
        ),
        labels=labels,
        images=open_images(build_config(LabelConfig, labels.manifest.config), store),
        entries=tuple(entry for i, entry in enumerate(entries) if i not in chosen),
        held_out=tuple(entry for i, entry in enumerate(entries) if i in chosen),
    )


def _check_labels(labels: Artifact, entries: Sequence[LabelEntry]) -> None:
    """Refuse labels that no output of the student stands for: a GPU would only say "assert"."""
    stats = labels.manifest.stats
    lowest = BACKGROUND if stats["has_background"] else 0
    known = range(lowest, len(stats["class_names"]))
    for entry in entries:
        if unknown := entry.pixels.keys() - {VOID, *known}:
            raise ArtifactError(
                f"{labels.reference} labels pixels of {printable(entry.key)} as class "
                f"{min(unknown)}, but its classes are {known[0]} to {known[-1]}.",
                HOW_TO_MAKE["labels"],
            )


def _check_confidence(labels: Artifact, config: StudentConfig) -> None:
    """Refuse a threshold above which hardly a pixel is left to learn from."""
    kept: Mapping[str, float] = labels.manifest.stats["kept_at"]
    if not kept:
        return  # its teacher has no confidence, and all of its labels count
    least = config.loader.min_confidence
    share = kept[max((name for name in kept if float(name) <= least), key=float)]
    if share < _LEAST_KEPT:
        told = ", ".join(f"{name}: {percent:.1f} %" for name, percent in kept.items() if percent)
        raise ConfigError(
            f"The teacher of {labels.reference} is sure of {share:.1f} % of the pixels at "
            f"min_confidence={least:g}, which leaves nothing to learn.",
            f"Lower it with --set loader.min_confidence=P (it is sure of, at {told}); but look at "
            "sheet.jpg of the labels first: an unsure teacher may know nothing.",
        )


def check_batch(config: StudentConfig, device: str) -> None:
    """Raise ConfigError where a process would see one image at a time, or none."""
    is_synced = pick_device(device).type == "cuda" and world_size() > 1
    if share_of_batch(config, world_size()).micro_batch_size == 1 and not is_synced:
        raise ConfigError(
            "BatchNorm cannot learn from one image at a time.",
            "Use a larger batch_size or micro_batch_size, or fewer processes.",
        )


def run(
    config: StudentConfig,
    store: ArtifactStore,
    *,
    name: str,
    stats: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Train a student, and publish a `checkpoint` artifact, see `carry_out`.

    Its stats, beside those of every run: `classes`, `teacher`, `images` it learned from,
    `agreement`, the percentage of the pixels of held-out images that it labels as its teacher does
    (None without such images), and `licence` of the weights that its backbone started from.

    Args:
        config: of the student.
        store: where the labels are.
        name: of the artifact.
        stats: what else its manifest tells.
        device: as of the other stages.
        progress: likewise.

    Raises:
        ArtifactError: no such labels, or they were changed.
        ConfigError: options that do not go together.
        DataError: the images of the labels are gone, or too many of them are unusable.
        TrainingError: the loss is not finite; the optimiser has not stepped on it.
        Stopped: SIGTERM came; the same command goes on.
    """
    the_plan = plan(config, store)
    check_batch(config, device)
    return carry_out(
        run_of(the_plan, device, stats or {}, progress),
        store,
        name=name,
        device=device,
        progress=progress,
    )


def run_of(the_plan: StudentPlan, device: str, stats: Mapping[str, Any], progress: Progress) -> Run:
    """Return the run of a student, see `run`."""
    config = the_plan.config

    def batches(step: int, share: Share, device: torch.device) -> Iterator[LabelledBatch]:
        return make_labelled_loader(
            LabelledImages(the_plan.entries, the_plan.images.image),
            config.loader,
            batch_size=share.micro_batch_size,
            seed=config.seed,
            start_batch=step * share.micro_batches,
            rank=rank(),
            world_size=world_size(),
            pin_memory=device.type == "cuda",
        )

    def as_segmenter(model: nn.Module) -> Segmenter:
        assert isinstance(model, Student)
        return Segmenter(ClassNetwork(model, config, teacher=the_plan.teacher))

    def agreement(model: nn.Module) -> dict[str, float | None]:
        if not the_plan.held_out:
            return {"agreement": None}
        return {"agreement": _agreement(the_plan, as_segmenter(model), device, progress)}

    facts = [f"labels {the_plan.labels.reference}, by the teacher {the_plan.teacher}"]
    told: dict[str, Any] = {
        "classes": len(config.model.class_names),
        "teacher": the_plan.teacher,
        "images": len(the_plan.entries),
        **stats,
    }
    backbone = config.model.backbone
    has_weights = backbone.pretrained or (backbone.weights is not None and "." in backbone.name)
    if has_weights and (licence := licence_of(backbone.name)):
        told["licence"] = f"{backbone.name}: {licence}"
        facts.append(f"licence of the weights of {backbone.name}: {licence}")
    if note := warm_start_note(backbone):
        told["note"] = note
        facts.append(f"warning: {note}")
    return Run(
        config=config,
        parents=[the_plan.labels],
        steps=config.steps,
        warmup_steps=min(config.optim.warmup_steps or 0, config.steps // 2),
        learner=partial(build_student_learner, config),
        batches=batches,
        as_segmenter=as_segmenter,
        facts=facts,
        stats=told,
        close=agreement,
    )


def _agreement(
    the_plan: StudentPlan, segmenter: Segmenter, device: str, progress: Progress
) -> float | None:
    """Return the percentage of the pixels of held-out images that both label alike."""
    entries = {entry.key: entry for entry in the_plan.held_out}

    def labels_of(key: str) -> LabelMap:
        return entries[key].read(0.0)

    benchmark = Benchmark(
        name="held-out images",
        class_names=the_plan.config.model.class_names,
        has_background=the_plan.config.model.has_background,
        keys=tuple(entries),
        image=the_plan.images.image,
        truth=labels_of,
    )
    rival = CheckpointRival(segmenter, View())
    contestant = Contestant(
        reference=rival.reference,
        predict=predictor(rival, Vocabulary.of(benchmark.class_names)),
        protocol={},
        rule=Rule(),
    )
    _, stats = score(contestant, benchmark, device, task="agreement", progress=progress)
    percent: float | None = stats["pixel_accuracy"]
    return percent
