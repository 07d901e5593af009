"""`sseg train`: pairs and masks in, a checkpoint out, on one process or as one rank of many.

A run keeps its step checkpoints in the scratch folder of its draft, so the same command picks up
where a killed run stopped, and the loss curve is the one of an uninterrupted run: the state
holds the optimiser, the generators and the position in the data.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from sseg_core.artifacts import Artifact, ArtifactStore, Draft, read_artifact
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import TrainConfig
from sseg_core.data.loader import make_loader
from sseg_core.device import pick_device
from sseg_core.distributed import of_first_rank, rank, world_size
from sseg_core.errors import ArtifactError, ConfigError, SsegError
from sseg_core.inference.segmenter import give_segments
from sseg_core.models.supervision import warm_start_note
from sseg_core.text.tokenizer import Tokenizer
from sseg_core.tracking import SILENT, Progress, read_metrics
from sseg_core.training.inputs import (
    Share,
    TrainInputs,
    check_length,
    find_inputs,
    share_of_batch,
)
from sseg_core.training.learner import Learner, build_learner
from sseg_core.training.loop import BEST, Course, Loop
from sseg_core.training.probe import Probe
from sseg_core.training.recorder import METRICS, Recorder
from sseg_core.training.run_state import RunState, Snapshots, world_change
from sseg_core.training.watch import LossWatch


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
    if config.publish == "best" and not config.eval_every:
        raise ConfigError("publish=best needs probes to choose by.", "Add --set eval_every=STEPS.")
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
    """Train, and publish a `checkpoint` artifact; in a process group, as one of its ranks.

    The artifact holds `model.safetensors` and `metrics.jsonl`, and where there were probes
    `best.safetensors` and `samples/`; its manifest the configuration, which alone rebuilds the
    model. Every rank returns the artifact.

    Raises:
        ArtifactError: an input is missing or unusable.
        ConfigError: options that do not go together, or a batch that the ranks cannot share.
        DataError: too many samples are unusable.
        TrainingError: the loss is not finite; the optimiser has not stepped on it.
        Stopped: SIGTERM came; the same command goes on.
    """
    if rank() != 0:
        progress = SILENT
    the_plan = plan(config, store)
    share = share_of_batch(config, world_size())
    target = pick_device(device)
    for sentence in _facts(the_plan):
        progress.message(sentence)
    probe = None
    if rank() == 0 and (config.eval_every or config.samples_every):
        probe = Probe(config.probe, the_plan.config)
    with _workplace(the_plan, store, name or config.recipe) as (folders, draft):
        course = Course(
            config=the_plan.config,
            steps=the_plan.steps,
            warmup_steps=the_plan.warmup_steps,
            micro_batches=share.micro_batches,
            artifact=folders[0],
            scratch=folders[1],
        )
        start = None if the_plan.start is None else the_plan.start.verified_file(WEIGHTS)
        learner = build_learner(the_plan.config, the_plan.inputs.num_segments, target, start=start)
        if probe is not None:
            give_segments(learner.result, the_plan.config.masks.generator)
        snapshots = Snapshots(
            course.scratch / "steps",
            model=learner.model,
            optimizer=learner.optimizer,
            ema=learner.ema,
            scaler=learner.scaler,
            device=target,
            keep=config.keep_checkpoints,
        )
        resumed = snapshots.resume()
        state = RunState() if resumed is None else resumed[0]
        if resumed is not None:
            progress.message(f"resuming at step {state.step}")
            if warning := world_change(resumed[2]):
                progress.message(warning)
        with ExitStack() as stack:
            recorder = None
            if rank() == 0:
                watch = LossWatch(config.batch_size, the_plan.warmup_steps)
                if resumed is not None:
                    watch.load_state_dict(resumed[1])
                recorder = stack.enter_context(
                    Recorder(
                        course.artifact,
                        first_step=state.step,
                        watch=watch,
                        device=target,
                        progress=progress,
                    )
                )
            loop = Loop(
                course=course,
                learner=learner,
                snapshots=snapshots,
                state=state,
                recorder=recorder,
                probe=probe,
                progress=progress,
                device=target,
            )
            loop.run(_batches(the_plan, share, state.step, target))
            rate = recorder.per_second() if recorder else 0.0
        if draft is None:
            return read_artifact(of_first_rank(Path()))
        made = _publish(the_plan, draft, learner, state, rate)
        of_first_rank(made.path.absolute())
        return made


def _facts(the_plan: TrainPlan) -> Iterator[str]:
    """Yield what a user should know before the first step."""
    inputs, config = the_plan.inputs, the_plan.config
    kind = "pairs" if config.masks.source == "online" else "masks"
    parents = [p.reference for p in inputs.parents if p.manifest.kind == "pairs"]
    of = f", pairs {', '.join(parents)}" if kind == "masks" and parents else ""
    yield f"{kind} {', '.join(inputs.references)}{of}"
    if note := warm_start_note(config.model.backbone):
        yield f"warning: {note}"


@contextmanager
def _workplace(
    the_plan: TrainPlan, store: ArtifactStore, name: str
) -> Iterator[tuple[tuple[Path, Path], Draft | None]]:
    """Yield the artifact's and the scratch folder of the run; the first rank has the draft.

    Raises:
        ArtifactError: the draft cannot be opened, on every rank; or this machine does not see it.
    """
    opened: Any = nullcontext()
    found: tuple[Path, Path] | SsegError | None = None
    with ExitStack() as stack:
        draft = None
        if rank() == 0:
            try:
                opened = store.draft(
                    "checkpoint", name, the_plan.config.model_dump(mode="json"), the_plan.parents
                )
                draft = stack.enter_context(opened)
                found = (draft.path.absolute(), draft.scratch.absolute())
            except SsegError as error:
                found = error
        found = of_first_rank(found)
        if isinstance(found, SsegError):
            raise found
        assert found is not None
        if not found[1].exists():
            raise ArtifactError(
                f"{socket.gethostname()} does not see {found[1]}.",
                "All machines of a run must share the --store.",
            )
        yield found, draft


def _batches(the_plan: TrainPlan, share: Share, step: int, device: torch.device) -> Any:
    config = the_plan.config
    return make_loader(
        the_plan.inputs.sets,
        config.loader,
        batch_size=share.micro_batch_size,
        seed=config.seed,
        start_batch=step * share.micro_batches,
        tokenizer=Tokenizer(config.model.text.context_length),
        rank=rank(),
        world_size=world_size(),
        pin_memory=device.type == "cuda",
    )


def _publish(
    the_plan: TrainPlan, draft: Draft, learner: Learner, state: RunState, rate: float
) -> Artifact:
    """Write the weights and the manifest."""
    best = draft.path / BEST
    weights = "ema" if learner.ema is not None else "last"
    if the_plan.config.publish == "best" and best.exists():
        shutil.copyfile(best, draft.path / WEIGHTS)
        weights = "best"
    else:
        save_weights(learner.result, draft.path / WEIGHTS)
    records = read_metrics(draft.path / METRICS)
    last = next((record for record in reversed(records) if "loss" in record), {})
    stats: dict[str, Any] = {
        "steps": the_plan.steps,
        "images": the_plan.inputs.images,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "images_per_second": round(rate, 2),
        "processes": world_size(),
        "weights": weights,
        "skipped": dict(state.skipped),
        **{term: last[term] for term in ("loss", "contrastive", "dice", "focal") if term in last},
    }
    if state.best_score >= 0:
        stats |= {"best_probe_miou": round(state.best_score, 2), "best_step": state.best_step}
    if note := warm_start_note(the_plan.config.model.backbone):
        stats["note"] = note
    return draft.publish(stats)
