"""`sseg export`: a checkpoint in, a folder out that runs without torch."""

from __future__ import annotations

from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.config import EvalConfig, ExportConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.evaluator import evaluate
from sseg_core.evaluation.protocol import segmentation_protocol
from sseg_core.evaluation.rivals.checkpoint import CheckpointRival, checkpoint_notes
from sseg_core.evaluation.rivals.rival import predictor
from sseg_core.evaluation.scores import percent
from sseg_core.export.folder import check_exportable, write_model, write_papers
from sseg_core.export.precision import check_packages
from sseg_core.inference.exported import open_graphs
from sseg_core.inference.segmenter import Segmenter
from sseg_core.tracking import SILENT, Progress


def run(
    config: ExportConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    progress: Progress = SILENT,
) -> Artifact:
    """Export a checkpoint to ONNX, compare it with torch, and publish an `export` artifact.

    The artifact holds `image.onnx`, `model.json`, `parity.json` and `MODEL_CARD.md`, and of a
    network that takes words `text.onnx`, `merges.txt.gz` and `templates.json`; see the model card.

    Stats: `precision`, `megabytes`, the largest `probability_difference` and the least share of
    `same_labels` (in percent) over the sizes that were compared, and, where it knows the toy
    world's classes, `toyworld_miou` and `toyworld_miou_torch` on `scenes` held-out scenes.

    Raises:
        SsegError: a package of the extra `export` is missing, or graph and network differ.
        ConfigError: the checkpoint has no graph.
        ArtifactError: there is no checkpoint, or it was changed.
    """
    check_packages()
    checkpoint = store.find(config.model, "checkpoint")
    check_exportable(checkpoint)
    progress.message(f"checkpoint {checkpoint.reference}")
    resolved = config.model_copy(update={"model": checkpoint.reference})
    with store.draft(
        "export",
        name or checkpoint.manifest.name,
        resolved.model_dump(mode="json"),
        [checkpoint],
    ) as draft:
        exported = write_model(
            checkpoint, draft, config.precision, checkpoint_notes(checkpoint), progress
        )
        scores = _scores(checkpoint, draft, config.scenes, store, progress)
        write_papers(draft, exported, scores)
        cases = exported.parity.cases
        stats: dict[str, Any] = {
            "precision": config.precision,
            "megabytes": round(sum(p.stat().st_size for p in draft.path.iterdir()) / 1e6, 1),
            "probability_difference": max(case.probability for case in cases),
            "same_labels": 100 * min(case.same_labels for case in cases),
        }
        if scores is not None:
            stats |= {
                "toyworld_miou": scores["exported"],
                "toyworld_miou_torch": scores["torch"],
                "scenes": scores["scenes"],
            }
        return draft.publish(stats)


def _scores(
    checkpoint: Artifact, draft: Draft, scenes: int, store: ArtifactStore, progress: Progress
) -> dict[str, Any] | None:
    """Return the mIoU of torch and of the graphs on held-out toy scenes; None without."""
    if not scenes:
        return None
    asked = EvalConfig(benchmark="toyworld", limit=scenes)
    benchmark = open_benchmark(asked, store)
    protocol = segmentation_protocol(asked, benchmark)
    assert protocol.view is not None
    trained = Segmenter.load(str(checkpoint.path), store=store, device="cpu")
    try:
        trained.check(protocol.vocabulary)
    except ConfigError:  # a student of other classes
        return None
    graphs = Segmenter(open_graphs(draft.path, checkpoint.reference, "cpu"))
    scores: dict[str, Any] = {"scenes": len(benchmark.keys)}
    for name, segmenter in {"torch": trained, "exported": graphs}.items():
        rival = CheckpointRival(segmenter, protocol.view)
        followed = protocol.followed_by(rival)
        result = evaluate(
            benchmark,
            predictor(rival, followed.vocabulary),
            followed.rule,
            batch_size=asked.batch_size,
            task=f"score of {name}",
            progress=progress,
        )
        scores[name] = percent(result.confusion.compute().miou)
    return scores
