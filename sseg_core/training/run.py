"""A run from its first step to its checkpoint, on one process or as one rank of many.

A run keeps its step checkpoints in the scratch folder of its draft, so the same command picks up
where a killed run stopped, and the loss curve is the one of an uninterrupted run: the state
holds the optimiser, the generators and the position in the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import RunConfig
from sseg_core.device import pick_device
from sseg_core.distributed import rank, world_size
from sseg_core.errors import ConfigError
from sseg_core.group_draft import group_draft
from sseg_core.tracking import SILENT, Progress, read_metrics
from sseg_core.training.inputs import Share, share_of_batch
from sseg_core.training.learner import Learner
from sseg_core.training.loop import BEST, Course, LoadedBatch, Loop
from sseg_core.training.probe import AsSegmenter, Probe
from sseg_core.training.recorder import METRICS, TERMS, Recorder
from sseg_core.training.run_state import RunState, Snapshots, world_change
from sseg_core.training.watch import LossWatch


@dataclass(frozen=True)
class Run:
    """What differs between the runs of S-Seg and those of its student.

    Attributes:
        config: of the run, resolved; it goes into the manifest whole.
        parents: the artifacts that the run is made from.
        steps: optimiser steps in all.
        warmup_steps: of these, with a rising learning rate.
        learner: builds what learns, on a device.
        batches: returns this rank's batches from a step on.
        as_segmenter: makes a segmenter of the weights as they are, for probes.
        facts: what a user should know before the first step.
        stats: of the manifest, beside those of every run.
        close: measures what else belongs there, on the weights that are published; every rank
            calls it.
    """

    config: RunConfig
    parents: Sequence[Artifact]
    steps: int
    warmup_steps: int
    learner: Callable[[torch.device], Learner]
    batches: Callable[[int, Share, torch.device], Iterator[LoadedBatch]]
    as_segmenter: AsSegmenter
    facts: Sequence[str] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    close: Callable[[nn.Module], Mapping[str, Any]] = lambda _: {}


def check_run(config: RunConfig) -> None:
    """Raise ConfigError where options of a run exclude each other."""
    if config.publish == "best" and not config.eval_every:
        raise ConfigError("publish=best needs probes to choose by.", "Add --set eval_every=STEPS.")


def carry_out(
    run: Run,
    store: ArtifactStore,
    *,
    name: str,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Train, and publish a `checkpoint` artifact; in a process group, as one of its ranks.

    The artifact holds `model.safetensors` and `metrics.jsonl`, and where there were probes
    `best.safetensors` and `samples/`; its manifest the configuration, which alone rebuilds the
    model. Every rank returns the artifact.

    Raises:
        ArtifactError: the store cannot be written, or weights to start from are unusable.
        ConfigError: options that do not go together, or a batch that the ranks cannot share.
        DataError: too many samples are unusable.
        TrainingError: the loss is not finite; the optimiser has not stepped on it.
        Stopped: SIGTERM came; the same command goes on.
    """
    if rank() != 0:
        progress = SILENT
    config = run.config
    share = share_of_batch(config, world_size())
    target = pick_device(device)
    for sentence in run.facts:
        progress.message(sentence)
    probe = None
    if rank() == 0 and (config.eval_every or config.samples_every):
        probe = Probe(config.probe, run.as_segmenter)
    values = config.model_dump(mode="json")
    with group_draft(store, "checkpoint", name, values, run.parents) as place:
        course = Course(
            config=config,
            steps=run.steps,
            warmup_steps=run.warmup_steps,
            micro_batches=share.micro_batches,
            artifact=place.path,
            scratch=place.scratch,
        )
        learner = run.learner(target)
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
                watch = LossWatch(config.batch_size, run.warmup_steps)
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
            loop.run(run.batches(state.step, share, target))
            rate = recorder.per_second() if recorder else 0.0
        measured = {"images_per_second": round(rate, 2), **run.close(learner.result)}
        made = None
        if place.draft is not None:
            made = _publish(run, place.draft, learner, state, measured)
        return place.share(made)


def _publish(
    run: Run, draft: Draft, learner: Learner, state: RunState, measured: Mapping[str, Any]
) -> Artifact:
    """Write the weights and the manifest."""
    best = draft.path / BEST
    weights = "ema" if learner.ema is not None else "last"
    if run.config.publish == "best" and best.exists():
        shutil.copyfile(best, draft.path / WEIGHTS)
        weights = "best"
    else:
        save_weights(learner.result, draft.path / WEIGHTS)
    records = read_metrics(draft.path / METRICS)
    last = next((record for record in reversed(records) if "loss" in record), {})
    stats: dict[str, Any] = {
        "steps": run.steps,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "processes": world_size(),
        "weights": weights,
        "skipped": dict(state.skipped),
        **measured,
        **{term: last[term] for term in TERMS if term in last},
        **run.stats,
    }
    if state.best_score >= 0:
        stats |= {"best_probe_miou": round(state.best_score, 2), "best_step": state.best_step}
    return draft.publish(stats)
