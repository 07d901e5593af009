"""The first half of a round of `sseg selftrain`: a teacher and images in, labels out.

A shard `labels-NNNNN.tar` of the artifact holds the labels of some consecutive images, and beside
it `labels-NNNNN.jsonl` says where in it those of an image are; see `data/label_shards.py`. The
same command after an interruption makes the missing shards only, and any number of processes and
machines may run it on one store, in a process group or each by itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from sseg_core.artifacts import Artifact, ArtifactStore, SharedDraft
from sseg_core.config import LabelConfig
from sseg_core.distributed import all_of_ranks, of_first_rank, rank
from sseg_core.errors import DataError, SsegError
from sseg_core.evaluation.benchmarks.registry import FOLDER
from sseg_core.evaluation.rivals.names import is_plugin
from sseg_core.evaluation.scores import percent
from sseg_core.labelling.images import UnlabelledImages, open_images
from sseg_core.labelling.labeller import Labeller, Report, index_of, shards_of
from sseg_core.labelling.sheet import label_sheet
from sseg_core.labelling.tally import Tally
from sseg_core.labelling.teacher import Teacher, open_teacher
from sseg_core.manifest import digest_of
from sseg_core.stages.evaluate import default_name
from sseg_core.tracking import SILENT, Progress

T = TypeVar("T")

SHEET = "sheet.jpg"
_SHEET_QUALITY = 90
_PUBLISHING = "publishing"  # claimed by the process that does it
_POLL_S = 0.2
_SHOWN = 5

_NOT_IN_LABELS = ("sheet", "max_share")
"""Options that change no label, so that a command with others goes on with the same shards."""


def run(
    config: LabelConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Label images, and publish a `labels` artifact; see the module.

    With `sheet` it also holds `sheet.jpg`, a contact sheet of so many images. Stats: `images`,
    `skipped` by reason, `class_names` and `has_background` (what the labels mean), `teacher`,
    `notes`, `protocol`, `shares` (percent of the labelled pixels by label), `never` (classes that
    no pixel was labelled with), `mean_confidence` and `kept_at` (percent of the labelled pixels
    that are at least so confident; None and empty of a teacher without confidence),
    `images_per_second` of this command with all its processes, and `source`, see
    `UnlabelledImages`.

    Args:
        config: the teacher and the images.
        store: where to.
        name: of the artifact; default: made of the teacher's and the images'.
        device: where the teacher computes.
        progress: told of every image.

    Raises:
        ConfigError: no such benchmark, model, protocol or option, or no model to teach.
        ArtifactError: no such checkpoint or weights, or the store cannot be written.
        DataError: the images are missing or none can be read, the teacher returns no labels, or
            one label has more than `max_share` of all pixels. What was labelled is kept for the
            same command.
    """
    images = open_images(config, store, progress)
    if config.model is None:  # the newest, which may be another one before all ranks have looked
        newest = store.find(None, "checkpoint").reference
        config = config.model_copy(update={"model": of_first_rank(newest)})
    teacher = open_teacher(config, images.benchmark, store, device)
    progress.message(
        f"{teacher.reference} labels {len(images):,} images of {images.name}, "
        f"protocol {teacher.protocol['name']}"
    )
    resolved = _resolved(config, teacher)
    draft = _shared_draft(resolved, images, teacher, store, name)
    shards = shards_of(images.keys, config.shard_size)
    progress.start("label", len(images), "images")
    done: Report | SsegError
    try:
        done = Labeller(
            draft=draft,
            shards=shards,
            images=images,
            teacher=teacher,
            batch_size=config.batch_size,
            progress=progress,
        ).run()
    except SsegError as error:
        done = error  # the others wait for this process
    reports = [_or_raise(report) for report in all_of_ranks(done)]
    made: Artifact | SsegError | None = None
    if rank() == 0:
        try:
            made = _publish(
                config=config,
                draft=draft,
                shards=list(shards),
                images=images,
                teacher=teacher,
                reports=reports,
                progress=progress,
            )
        except SsegError as error:
            made = error
    artifact = _or_raise(of_first_rank(made))
    assert artifact is not None
    return artifact


def _or_raise(value: T | SsegError) -> T:
    if isinstance(value, SsegError):
        raise value
    return value


def _resolved(config: LabelConfig, teacher: Teacher) -> LabelConfig:
    """Return what is to be found again later, from another folder too."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    model, benchmark = config.model, config.benchmark
    if teacher.parents:
        model = teacher.reference
    elif model is not None and is_plugin(model):
        model = absolute(model)
    if benchmark.startswith(FOLDER) and benchmark != FOLDER:
        benchmark = f"{FOLDER}{absolute(benchmark.removeprefix(FOLDER))}"
    return config.model_copy(
        update={
            "model": model,
            "benchmark": benchmark,
            **{name: absolute(getattr(config, name)) for name in ("root", "images", "weights")},
        }
    )


def _shared_draft(
    config: LabelConfig,
    images: UnlabelledImages,
    teacher: Teacher,
    store: ArtifactStore,
    name: str | None,
) -> SharedDraft:
    """Return the draft, the same one on all ranks."""
    identity = {
        "config": config.model_dump(mode="json", exclude=set(_NOT_IN_LABELS)),
        # What of the user's files may have changed since an interruption: photos that came or
        # went, words, and in the notes the digests of plug-ins and weights.
        "keys": digest_of(images.keys),
        "protocol": teacher.protocol,
        "notes": teacher.notes,
    }
    opened: SharedDraft | SsegError | None = None
    if rank() == 0:
        try:
            opened = store.shared_draft(
                "labels",
                name or default_name(teacher.reference, images.benchmark),
                config.model_dump(mode="json"),
                teacher.parents,
                identity=identity,
            )
        except SsegError as error:
            opened = error
    draft = _or_raise(of_first_rank(opened))
    assert draft is not None
    return draft


def _publish(
    *,
    config: LabelConfig,
    draft: SharedDraft,
    shards: Sequence[str],
    images: UnlabelledImages,
    teacher: Teacher,
    reports: Sequence[Report],
    progress: Progress,
) -> Artifact:
    claim = _turn_to_publish(draft)
    if claim is None:
        artifact = draft.published()
        assert artifact is not None
        progress.message(f"{artifact.reference} was published by another process")
        return artifact
    try:
        stats = _stats(draft, shards, images, teacher, reports)
        _warn_of_never_labelled(stats["never"], teacher, progress)
        _refuse_one_label(stats["shares"], config.max_share, teacher)
        if config.sheet:
            indices = [draft.path / index_of(shard) for shard in shards]
            sheet = label_sheet(indices, images.image, teacher.class_names, config.sheet)
            if sheet is not None:
                sheet.save(draft.partial(SHEET), "JPEG", quality=_SHEET_QUALITY)
                draft.commit(SHEET)
        return draft.publish(stats)
    finally:
        claim.release()


def _turn_to_publish(draft: SharedDraft) -> FileLock | None:
    """Return the claim of the one process that publishes; None where another one has."""
    while draft.is_open():
        if (claim := draft.claim(_PUBLISHING)) is not None:
            return claim
        time.sleep(_POLL_S)
    return None


def _stats(
    draft: SharedDraft,
    shards: Sequence[str],
    images: UnlabelledImages,
    teacher: Teacher,
    reports: Sequence[Report],
) -> dict[str, Any]:
    total = Tally()
    for shard in shards:
        total.add(Tally.from_note(draft.finished[shard]))
    if not total.images:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in total.skipped.most_common())
        raise DataError(
            f"None of the {len(images):,} images of {images.name} can be read: {reasons}.",
            "Check its files.",
        )
    shares = total.shares(teacher.class_names, has_background=teacher.has_background)
    confidence = total.mean_confidence()
    return {
        "images": total.images,
        "skipped": dict(total.skipped),
        "class_names": list(teacher.class_names),
        "has_background": teacher.has_background,
        "teacher": teacher.reference,
        "notes": list(teacher.notes),
        "protocol": teacher.protocol,
        "shares": {name: percent(share) for name, share in shares.items()},
        "never": total.never(teacher.class_names),
        "mean_confidence": None if confidence is None else round(confidence, 4),
        "kept_at": {least: percent(share) for least, share in total.kept_at().items()},
        "images_per_second": _rate(reports),
        "source": images.source,
    }


def _warn_of_never_labelled(never: Sequence[str], teacher: Teacher, progress: Progress) -> None:
    if never:
        more = f" and {len(never) - _SHOWN} more" if len(never) > _SHOWN else ""
        progress.message(
            f"warning: no pixel was labelled {', '.join(map(repr, never[:_SHOWN]))}{more}, "
            f"of {len(teacher.class_names)} classes"
        )


def _refuse_one_label(shares: Mapping[str, float], max_share: float, teacher: Teacher) -> None:
    """Refuse labels from which nothing can be learned but a constant.

    Raises:
        DataError: one label has more than the allowed share, or no pixel has any.
    """
    first, *others = sorted(shares, key=lambda name: shares[name], reverse=True)
    if not shares[first]:
        raise DataError(
            f"{teacher.reference} labels no pixel at all.", "Look at it with sseg predict."
        )
    if shares[first] > 100 * max_share:
        rest = f", and {shares[others[0]]:.2f} % {others[0]!r}" if others else ""
        raise DataError(
            f"{teacher.reference} labels {shares[first]:.2f} % of all pixels {first!r}{rest}: a "
            "student would learn little else.",
            "Try another threshold (--set label.threshold=T) or other classes, or allow it with "
            "--set label.max_share=1: the same labels are then used.",
        )


def _rate(reports: Sequence[Report]) -> float:
    """Return images per second of all processes together, 0 where others made everything."""
    return round(sum(r.images / max(r.seconds, 1e-9) for r in reports if r.images), 2)
