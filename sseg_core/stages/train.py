"""`sseg train`: pairs and masks in, a checkpoint out, on one process.

A run keeps its step checkpoints in the scratch folder of its draft, so the same command picks up
where a killed run stopped, and the loss curve is the one of an uninterrupted run: the state
holds the optimiser, the generator and the position in the data.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.checkpoint import WEIGHTS, load_step, save_step, save_weights
from sseg_core.config import TrainConfig
from sseg_core.data.augment import Augmentation
from sseg_core.data.loader import make_loader
from sseg_core.data.order import ShardSet
from sseg_core.device import pick_device
from sseg_core.errors import ArtifactError, TrainingError
from sseg_core.losses.criterion import criterion
from sseg_core.models.build import build_model
from sseg_core.models.sseg import SSeg
from sseg_core.structures import Batch, LossTerms
from sseg_core.text.tokenizer import Tokenizer
from sseg_core.tracking import SILENT, MetricsLog, Progress, Throughput, read_metrics
from sseg_core.training.optimizer import learning_rate, make_optimizer, set_learning_rate


@dataclass(frozen=True)
class TrainPlan:
    """What a run will do, resolved before it starts."""

    masks: Artifact
    pairs: Artifact
    config: TrainConfig
    images: int
    num_segments: int
    """K: the segment ids of the masks are below it."""
    steps: int
    warmup_steps: int
    shards: tuple[tuple[str, str], ...]
    """Pairs shard and masks shard, by name."""


@dataclass
class TrainState:
    """Where a run stands; what a step checkpoint keeps beside weights and optimiser."""

    step: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def plan(config: TrainConfig, store: ArtifactStore) -> TrainPlan:
    """Resolve the inputs and the length of a run.

    Raises:
        ArtifactError: no masks, masks without their pairs, or fewer images than a batch.
    """
    masks = store.find(config.masks.stored, "masks")
    pairs = store.parent(masks, "pairs")
    if "urls" in masks.manifest.stats:
        raise ArtifactError(
            f"The shards of {masks.reference} were written elsewhere, to "
            f"{masks.manifest.config['out']}; training reads the masks of an artifact.",
            "Make them again without out: sseg pseudomask",
        )
    images = int(masks.manifest.stats["images"])
    if images < config.batch_size:
        raise ArtifactError(
            f"{masks.reference} has {images} images, fewer than a batch of {config.batch_size}.",
            f"Use --set batch_size={max(2, images // 2)}, or more images.",
        )
    per_epoch = images / config.batch_size
    steps = config.steps or max(1, math.ceil(config.epochs * per_epoch))
    optim = config.optim
    warmup = optim.warmup_steps
    if warmup is None:
        warmup = min(round(optim.warmup_epochs * per_epoch), steps // 10 if config.steps else steps)
    tars = {path.name: path for path in masks.files(".tar")}
    shards = tuple((str(pairs.file(name)), str(tars[name])) for name in sorted(tars))
    stored = config.masks.model_copy(update={"stored": masks.reference})
    resolved = config.model_copy(update={"masks": stored})
    return TrainPlan(
        masks=masks,
        pairs=pairs,
        config=resolved,
        images=images,
        num_segments=int(masks.manifest.config["masks"]),
        steps=steps,
        warmup_steps=warmup,
        shards=shards,
    )


def run(
    config: TrainConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Train, and publish a `checkpoint` artifact.

    The artifact holds `model.safetensors` and `metrics.jsonl`; its manifest the configuration,
    which alone rebuilds the model.

    Raises:
        ArtifactError: an input is missing or unusable.
        DataError: too many samples are unusable.
        TrainingError: the loss is not finite; the optimiser has not stepped on it.
    """
    the_plan = plan(config, store)
    progress.message(f"masks {the_plan.masks.reference}, pairs {the_plan.pairs.reference}")
    with store.draft(
        "checkpoint",
        name or config.recipe,
        the_plan.config.model_dump(mode="json"),
        [the_plan.masks, the_plan.pairs],
    ) as draft:
        trainer = _Trainer(the_plan, draft, pick_device(device))
        state = trainer.resume()
        if state.step:
            progress.message(f"resuming at step {state.step}")
        progress.start("train", the_plan.steps, "steps")
        progress.advance(state.step)
        rate = trainer.loop(state, progress)
        save_weights(trainer.model, draft.path / WEIGHTS)
        last = read_metrics(draft.path / "metrics.jsonl")[-1]
        return draft.publish(
            {
                "steps": the_plan.steps,
                "images": the_plan.images,
                "parameters": sum(p.numel() for p in trainer.model.parameters()),
                "images_per_second": round(rate, 2),
                "skipped": dict(state.skipped),
                **{term: last[term] for term in ("loss", "contrastive", "dice", "focal")},
            }
        )


class _Trainer:
    """The moving parts of a run: model, optimiser, data and log."""

    def __init__(self, the_plan: TrainPlan, draft: Draft, device: torch.device) -> None:
        self.plan = the_plan
        self.config = the_plan.config
        self.device = device
        self.steps_folder = draft.scratch / "steps"
        self.metrics_path = draft.path / "metrics.jsonl"
        self.failure_path = draft.scratch / "nonfinite.json"
        torch.manual_seed(self.config.seed)
        self.model: SSeg = build_model(self.config.model).to(device)
        self.optimizer = make_optimizer(self.model, self.config.optim)
        self.augment = Augmentation(self.config.loader)
        self.autocast_dtype = _autocast_dtype(self.config.precision, device)

    def resume(self) -> TrainState:
        """Load the newest step checkpoint of this run, if there is one."""
        saved = load_step(self.steps_folder, self.model)
        if saved is None:
            return TrainState()
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["cpu_rng"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        return TrainState(step=saved["step"], skipped=Counter(saved["skipped"]))

    def save(self, state: TrainState) -> None:
        """Write a step checkpoint."""
        saved: dict[str, Any] = {
            "step": state.step,
            "skipped": dict(state.skipped),
            "optimizer": self.optimizer.state_dict(),
            "cpu_rng": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            saved["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        keep = self.config.keep_checkpoints
        save_step(self.steps_folder, state.step, self.model, saved, keep)

    def loop(self, state: TrainState, progress: Progress) -> float:
        """Train to the last step; return the rate in images per second."""
        config, steps = self.config, self.plan.steps
        batches = make_loader(
            [ShardSet(self.plan.shards, weight=1, name=self.plan.masks.reference)],
            config.loader,
            batch_size=config.batch_size,
            seed=config.seed,
            start_batch=state.step,
            tokenizer=Tokenizer(config.model.text.context_length),
        )
        throughput = Throughput()
        self.model.train()
        with MetricsLog(self.metrics_path, first_step=state.step) as log:
            while state.step < steps:
                batch = next(batches)
                state.skipped.update(batch.skipped)
                terms, grad_norm, rate = self.train_step(batch, state.step)
                throughput.update(len(batch.keys))
                if state.step % config.log_every == 0 or state.step == steps - 1:
                    values = {name: float(value) for name, value in terms.detached().items()}
                    record = {"step": state.step, **values, "grad_norm": grad_norm, "lr": rate}
                    log.write({**record, "images_per_second": round(throughput.per_second(), 2)})
                    fields = {name: f"{value:.3f}" for name, value in values.items()}
                else:
                    fields = {}
                state.step += 1
                progress.advance(1, **fields, images_s=f"{throughput.per_second():.0f}")
                if state.step % config.checkpoint_every == 0 and state.step < steps:
                    self.save(state)
        return throughput.per_second()

    def train_step(self, batch: Batch, step: int) -> tuple[LossTerms, float, float]:
        """One optimiser step; returns the loss terms, the gradient norm and the learning rate."""
        rate = learning_rate(step, self.plan.steps, self.plan.warmup_steps, self.config.optim)
        set_learning_rate(self.optimizer, rate)
        batch = self.augment(batch.to(self.device))
        dtype = self.autocast_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            output = self.model(batch.images, batch.token_ids)
        assert batch.label_maps is not None
        terms = criterion(output, batch.label_maps, self.plan.num_segments, self.config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        limit = self.config.optim.clip_norm or math.inf
        grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if not math.isfinite(grad_norm + terms.total.item()):
            self.stop_non_finite(terms, grad_norm, batch.keys, step)
        self.optimizer.step()
        return terms, grad_norm, rate

    def stop_non_finite(
        self, terms: LossTerms, grad_norm: float, keys: tuple[str, ...], step: int
    ) -> None:
        """Raise TrainingError, with the samples of the step in its text and all in a file."""
        values = {name: float(value) for name, value in terms.detached().items()}
        report = {"step": step, **values, "grad_norm": grad_norm, "keys": keys}
        self.failure_path.write_text(json.dumps(report, indent=1), encoding="utf-8")
        shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
        raise TrainingError(
            f"The loss or its gradient is not finite at step {step} "
            f"(loss {values['loss']}, gradient norm {grad_norm}); samples: {shown}.",
            f"All {len(keys)} keys are in {self.failure_path}. Lower optim.lr, or set "
            "precision=fp32; the run resumes from its last step checkpoint.",
        )


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "bf16":
        return torch.bfloat16
    if precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return None
