"""`sseg train`: pairs and masks in, a checkpoint out, on one process or as one rank of many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS
from sseg_core.config import TrainConfig
from sseg_core.data.loader import make_loader
from sseg_core.distributed import rank, world_size
from sseg_core.errors import ConfigError
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.word_network import WordNetwork, default_image_size, give_segments
from sseg_core.models.build import Model
from sseg_core.models.supervision import warm_start_note
from sseg_core.structures import Batch
from sseg_core.text.tokenizer import Tokenizer
from sseg_core.tracking import SILENT, Progress
from sseg_core.training.inputs import Share, TrainInputs, check_length, find_inputs
from sseg_core.training.learner import Learner, build_learner
from sseg_core.training.probe import AsSegmenter
from sseg_core.training.run import Run, carry_out, check_run


@dataclass(frozen=True)
class TrainPlan:
    """What a run will do, resolved before it starts."""

    inputs: TrainInputs
    config: TrainConfig
    steps: int
    warmup_steps: int
    start: Artifact | None
    """The checkpoint whose weights the run starts from."""

    @property
    def parents(self) -> list[Artifact]:
        """The artifacts that the run is made from."""
        return [*self.inputs.parents, *([self.start] if self.start else [])]


def plan(config: TrainConfig, store: ArtifactStore) -> TrainPlan:
    """Resolve the inputs and the length of a run.

    Raises:
        ArtifactError: no masks, masks without their pairs, or fewer images than a batch.
        ConfigError: options that exclude each other.
    """
    check_run(config)
    inputs = find_inputs(config.masks, store)
    slots = config.model.decoder.num_queries
    if config.model.architecture == "pseudomask_vit" and inputs.num_segments > slots:
        raise ConfigError(
            f"The images have up to {inputs.num_segments} pseudo-masks, but the model has places "
            f"for {slots}.",
            f"Set model.decoder.num_queries={inputs.num_segments}.",
        )
    check_length(inputs, config.batch_size, config.steps)
    start = None
    updates: dict[str, Any] = {"masks": inputs.masks}
    if config.init_from is not None:
        start = store.find(config.init_from, "checkpoint")
        updates["init_from"] = start.reference
    per_epoch = (inputs.images or 0) / config.batch_size
    steps = config.steps or max(1, ceil(config.epochs * per_epoch))
    warmup = config.optim.warmup_steps
    if warmup is None:
        by_epochs = round(config.optim.warmup_epochs * per_epoch)
        warmup = min(by_epochs, steps // 10 if config.steps else steps)
    return TrainPlan(
        inputs=inputs,
        config=config.model_copy(update=updates),
        steps=steps,
        warmup_steps=warmup,
        start=start,
    )


def run(
    config: TrainConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Train S-Seg, and publish a `checkpoint` artifact, see `carry_out`.

    Raises:
        ArtifactError: an input is missing or unusable.
        ConfigError: options that do not go together, or a batch that the ranks cannot share.
        DataError: too many samples are unusable.
        TrainingError: the loss is not finite; the optimiser has not stepped on it.
        Stopped: SIGTERM came; the same command goes on.
    """
    the_plan = plan(config, store)
    return carry_out(
        _run_of(the_plan), store, name=name or config.recipe, device=device, progress=progress
    )


def _run_of(the_plan: TrainPlan) -> Run:
    config, inputs = the_plan.config, the_plan.inputs
    tokenizer = Tokenizer(config.model.text.context_length)

    def learner(device: torch.device) -> Learner:
        start = None if the_plan.start is None else the_plan.start.verified_file(WEIGHTS)
        built = build_learner(config, inputs.num_segments, device, start=start)
        if config.eval_every or config.samples_every:
            assert isinstance(built.result, Model)
            give_segments(built.result, config.masks.generator)
        return built

    def batches(step: int, share: Share, device: torch.device) -> Iterator[Batch]:
        return make_loader(
            inputs.sets,
            config.loader,
            batch_size=share.micro_batch_size,
            seed=config.seed,
            start_batch=step * share.micro_batches,
            tokenizer=tokenizer,
            rank=rank(),
            world_size=world_size(),
            pin_memory=device.type == "cuda",
        )

    stats: dict[str, Any] = {"images": inputs.images}
    # Two who fetch CC12M get different images: what they learned from is told apart by content.
    data = {
        parent.reference: parent.manifest.stats["fingerprint"]
        for parent in inputs.parents
        if "fingerprint" in parent.manifest.stats
    }
    if data:
        stats["data"] = data
    if note := warm_start_note(config.model.backbone):
        stats["note"] = note
    return Run(
        config=config,
        parents=the_plan.parents,
        steps=the_plan.steps,
        warmup_steps=the_plan.warmup_steps,
        learner=learner,
        batches=batches,
        as_segmenter=as_segmenter(config),
        facts=tuple(_facts(the_plan)),
        stats=stats,
    )


def as_segmenter(config: TrainConfig) -> AsSegmenter:
    """Return what makes a segmenter of a network of `config` while it learns."""
    text = config.model.text
    tokenizer = Tokenizer(text.context_length)

    def segmenter(model: nn.Module) -> Segmenter:
        assert isinstance(model, Model)
        size = default_image_size(config)
        return Segmenter(WordNetwork(model, tokenizer, size, text.template))

    return segmenter


def _facts(the_plan: TrainPlan) -> Iterator[str]:
    """Yield what a user should know before the first step."""
    inputs, config = the_plan.inputs, the_plan.config
    kind = "pairs" if config.masks.source == "online" else "masks"
    parents = [p.reference for p in inputs.parents if p.manifest.kind == "pairs"]
    of = f", pairs {', '.join(parents)}" if kind == "masks" and parents else ""
    yield f"{kind} {', '.join(inputs.references)}{of}"
    if note := warm_start_note(config.model.backbone):
        yield f"warning: {note}"
