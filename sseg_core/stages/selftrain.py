"""`sseg selftrain`: a teacher labels, a student learns, both are scored; round by round (S-Seg+).

Every round leaves its artifacts: `labels`, the `checkpoint` of the student, and the `scores` of
teacher and student where the benchmark has a truth to score on. So the table of all rounds follows
from the last checkpoint and its ancestors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import (
    EvalConfig,
    LabelConfig,
    ProbeConfig,
    SelftrainConfig,
    StudentConfig,
    build_config,
)
from sseg_core.errors import ArtifactError, ConfigError, DataError, printable
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.group_draft import group_draft
from sseg_core.labelling.images import open_images
from sseg_core.manifest import HOW_TO_MAKE
from sseg_core.models.student import build_student
from sseg_core.stages import evaluate, label, student
from sseg_core.stages.record import StageRecord
from sseg_core.stages.rounds import is_student
from sseg_core.tracking import SILENT, Progress
from sseg_core.training.run import check_run

TEACHER = "teacher"

_OF_WORDS = ("image_size", "window", "stride", "templates", "logit_scale", "refine", "weights")
"""How the first teacher is asked; the students of later rounds have their own ways."""


def run(
    config: SelftrainConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Train a student on a teacher's labels (S-Seg Sec. 3.3.4), and return its `checkpoint`.

    With several rounds the student of one is the teacher of the next, and a new student starts
    from the weights that the first started from; the rounds end early where the agreement of
    student and teacher has not grown by `min_growth` points. `rounds.rounds_of` tells what came of
    each. The same command after an interruption goes on where it was.

    Raises:
        ArtifactError: there is no such teacher or no such labels.
        ConfigError: options that do not go together, or labels of other classes.
        DataError: images that cannot be read, or a teacher that sees one class everywhere.
        TrainingError: the loss is not finite.
        Stopped: SIGTERM came; the same command goes on.
    """
    config = resolve(config, store)
    check_student(config, device)
    the_name = name or default_name(config.label)
    values = {"selftrain": config.model_dump(mode="json")}
    with group_draft(store, "checkpoint", the_name, values) as place:
        rounds = _Rounds(
            config, store, the_name, device, progress, StageRecord(place.scratch, store)
        )
        checkpoint = rounds.run()
        if place.draft is not None:
            place.draft.discard()
    return checkpoint


def resolve(config: SelftrainConfig, store: ArtifactStore) -> SelftrainConfig:
    """Return the configuration with its teacher and labels named.

    The default teacher is the newest checkpoint that is no student itself, so that the same
    command means the same when its own student is there.

    Raises:
        ArtifactError: there is no checkpoint, or no such labels.
        ConfigError: the labels have other classes than the benchmark.
    """
    asked = config.label
    if config.labels is not None:
        labels = store.find(config.labels, "labels")
        made = build_config(LabelConfig, labels.manifest.config)
        if asked != LabelConfig():
            _refuse_other_classes(labels, asked, store)
            _refuse_other_teacher(labels, asked.model, str(made.model))
            made = asked.model_copy(update={"model": made.model, "weights": made.weights})
        config = config.model_copy(update={"label": made, "labels": labels.reference})
    elif asked.model is None:
        asked = asked.model_copy(update={"model": _newest_teacher(store).reference})
        config = config.model_copy(update={"label": asked})
    return config.model_copy(update={"probe": _probe(config)})


def _probe(config: SelftrainConfig) -> ProbeConfig:
    """Return what the student is probed on: the benchmark of the labels unless another is named."""
    if config.probe != ProbeConfig():
        return config.probe
    asked = config.label
    if asked.classes is not None:
        if config.eval_every or config.samples_every:
            raise ConfigError(
                "Probes need images with a truth, and there is no benchmark.",
                "Name one with --set probe.benchmark=NAME, or leave eval_every and samples_every.",
            )
        return config.probe
    return ProbeConfig(benchmark=asked.benchmark, root=asked.root, split=config.eval_split)


def check_student(config: SelftrainConfig, device: str) -> None:
    """Build the student's network once, to know before hours of labelling that it can be built.

    Raises:
        ConfigError: the configuration describes no network, or too small a batch.
        ArtifactError: the weight file of the backbone is unreadable or of another model.
        SsegError: the pretrained weights are neither cached nor reachable.
    """
    check_run(config)
    student.check_batch(config, device)
    some = {"class_names": ("one", "other")}
    build_student(config.model.model_copy(update=some))


def default_name(config: LabelConfig) -> str:
    """Return the name of a student that was given none: that of its teacher, and -plus."""
    teacher = (config.model or TEACHER).rpartition("/")[2]
    base = re.sub(r":v[0-9]+$", "", teacher)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.")[:59] + "-plus"


def eval_config(config: SelftrainConfig, model: str) -> EvalConfig:
    """Return how teacher and students are scored: on the benchmark, by the rules of the labels."""
    asked = config.label
    return EvalConfig(
        benchmark=asked.benchmark,
        root=asked.root,
        split=config.eval_split,
        limit=config.eval_limit,
        model=model,
        weights=asked.weights if model == asked.model else None,
        protocol=asked.protocol,
        class_words=asked.class_words,
        background=asked.background,
        background_words=asked.background_words,
        threshold=asked.threshold,
        batch_size=asked.batch_size,
        seed=asked.seed,
    )


@dataclass(frozen=True)
class _Rounds:
    config: SelftrainConfig
    store: ArtifactStore
    name: str
    device: str
    progress: Progress
    record: StageRecord

    def run(self) -> Artifact:
        """Return the student of the last round."""
        asked = self.config.label
        assert asked.model is not None
        is_scored = self._can_score()
        if is_scored:
            self._score(asked.model, f"{self.name}-{TEACHER}", TEACHER)
        before: float | None = None
        for number in range(1, self.config.rounds + 1):
            if self.config.rounds > 1:
                self.progress.message(f"round {number} of {self.config.rounds}")
            labels = self._labels(asked, number)
            checkpoint = self._student(labels, number)
            if is_scored:
                self._score(checkpoint.reference, self.name, f"round {number}")
            agreement: float | None = checkpoint.manifest.stats["agreement"]
            if number < self.config.rounds and not self._has_grown(before, agreement):
                self.progress.message(
                    f"no further round: student and teacher agree on {agreement} % of the pixels, "
                    f"after {before} % in the round before"
                )
                break
            before = agreement
            asked = asked.model_copy(
                update={**dict.fromkeys(_OF_WORDS), "model": checkpoint.reference}
            )
        return checkpoint

    def _has_grown(self, before: float | None, agreement: float | None) -> bool:
        if before is None or agreement is None:
            return True
        return agreement >= before + self.config.min_growth

    def _labels(self, asked: LabelConfig, number: int) -> Artifact:
        if number == 1 and self.config.labels is not None:
            return self.store.find(self.config.labels, "labels")
        return self.record.once(
            "labels",
            f"round {number}",
            lambda: label.run(
                asked, self.store, name=self.name, device=self.device, progress=self.progress
            ),
        )

    def _student(self, labels: Artifact, number: int) -> Artifact:
        own: StudentConfig = self.config.student.model_copy(update={"labels": labels.reference})
        return self.record.once(
            "checkpoint",
            f"round {number}",
            lambda: student.run(
                own,
                self.store,
                name=self.name,
                stats={"round": number},
                device=self.device,
                progress=self.progress,
            ),
        )

    def _can_score(self) -> bool:
        if self.config.label.classes is not None:
            return False  # there is no benchmark
        try:
            open_benchmark(eval_config(self.config, ""), self.store, self.progress)
        except DataError as error:
            self.progress.message(f"teacher and student are not scored: {error.message}")
            return False
        return True

    def _score(self, model: str, name: str, stage: str) -> Artifact:
        return self.record.once(
            "scores",
            stage,
            lambda: evaluate.run(
                eval_config(self.config, model),
                self.store,
                name=name,
                device=self.device,
                progress=self.progress,
            ),
        )


def _newest_teacher(store: ArtifactStore) -> Artifact:
    for artifact in reversed(store.artifacts("checkpoint")):
        if not is_student(artifact):
            return artifact
    raise ArtifactError(
        f"There is no checkpoint artifact in {store.root} that could be the teacher.",
        HOW_TO_MAKE["checkpoint"],
    )


def _refuse_other_teacher(labels: Artifact, asked: str | None, made_by: str) -> None:
    if asked is not None and asked not in {made_by, made_by.partition(":")[0]}:
        raise ConfigError(
            f"The labels {labels.reference} were made by {printable(made_by)}, not by "
            f"{printable(asked)}.",
            "Leave --teacher out, or --labels to label anew.",
        )


def _refuse_other_classes(labels: Artifact, asked: LabelConfig, store: ArtifactStore) -> None:
    expected = open_images(asked, store).benchmark.class_names
    found = labels.manifest.stats["class_names"]
    for number, (one, other) in enumerate(zip_longest(found, expected), start=1):
        if one != other:
            has = "has no more classes" if one is None else f"has {printable(one)!r}"
            instead = "none" if other is None else repr(printable(other))
            raise ConfigError(
                f"The labels {labels.reference} {has} where {asked.benchmark} has {instead} "
                f"(class {number}).",
                "Leave --labels out to label anew, or name the benchmark of these labels.",
            )
