"""`sseg eval --compare`: several scores of one benchmark side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.draft import program_version
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.metrics.per_image import PerImage
from sseg_core.evaluation.report.compare import Run, what_keeps_apart, write_comparison_page
from sseg_core.evaluation.scores import percent
from sseg_core.stages.evaluate import IMAGES

PAGE = "comparison.html"


def compare_scores(
    references: Sequence[str], store: ArtifactStore, *, name: str | None = None
) -> Artifact:
    """Publish a `scores` artifact that holds `comparison.html`.

    Its stats: `runs` with their `miou` and interval; `differences` of the mIoU of each two runs,
    with the 95 % interval of the paired bootstrap over the images that both have; `apart`, what
    differs in benchmark or protocol and keeps the scores from being compared.

    Args:
        references: two or more `scores` artifacts of one benchmark.
        store: where they are.
        name: of the artifact; default: `comparison`.

    Raises:
        ConfigError: fewer than two.
        ArtifactError: no such scores, changed ones, or such as have no counts per image.
    """
    if len(references) < 2:
        raise ConfigError(
            "A comparison needs two scores or more.",
            "Name them: sseg eval --compare FIRST SECOND; `sseg artifacts list` shows what is "
            "there.",
        )
    artifacts = [store.find(reference, "scores") for reference in references]
    counts = [_counts(artifact) for artifact in artifacts]
    runs = [
        Run(
            reference=artifact.reference,
            stats=artifact.manifest.stats,
            image_miou={key: per_image.miou_of(key) for key in per_image.keys},
        )
        for artifact, per_image in zip(artifacts, counts, strict=True)
    ]
    paired: dict[tuple[int, int], tuple[float, float, float]] = {}
    for i, j in combinations(range(len(runs)), 2):
        if counts[i].num_labels == counts[j].num_labels and set(counts[i].keys) & set(
            counts[j].keys
        ):
            paired[i, j] = _difference(counts[i], counts[j])
    stats: dict[str, Any] = {
        "runs": [
            {
                "reference": run.reference,
                "model": run.stats["model"],
                "miou": run.stats["miou"],
                "low": run.stats["miou_interval"][0],
                "high": run.stats["miou_interval"][1],
            }
            for run in runs
        ],
        "differences": [
            {
                "first": runs[i].reference,
                "second": runs[j].reference,
                "difference": percent(difference),
                "low": percent(low),
                "high": percent(high),
            }
            for (i, j), (difference, low, high) in paired.items()
        ],
        "apart": what_keeps_apart(runs),
    }
    config = {"compare": [artifact.reference for artifact in artifacts]}
    with store.draft("scores", name or "comparison", config, artifacts) as draft:
        write_comparison_page(draft.partial(PAGE), runs, paired, version=program_version())
        draft.commit(PAGE)
        return draft.publish(stats)


def _counts(artifact: Artifact) -> PerImage:
    if IMAGES not in artifact.manifest.files:
        raise ArtifactError(
            f"{artifact.reference} holds no counts per image.",
            "Compare the scores of single models, made by this version of sseg eval.",
        )
    return PerImage.load(artifact.verified_file(IMAGES))


def _difference(first: PerImage, second: PerImage) -> tuple[float, float, float]:
    """Return the difference of the mIoU over the common images and its interval, in points."""
    others = set(second.keys)
    common = [key for key in first.keys if key in others]
    difference = first.ordered(common).miou() - second.ordered(common).miou()
    return (difference, *first.paired_interval(second))
