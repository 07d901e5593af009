"""Trained checkpoints, S-Seg, its baseline 2 and students, as `sseg eval` asks them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import StudentConfig, TrainConfig, build_checkpoint_config
from sseg_core.data.images import RGBImage
from sseg_core.errors import printable
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.models.supervision import warm_start_note
from sseg_core.pseudomask.features import supervision

_ARCHITECTURES = {
    "sseg": "S-Seg",
    "pseudomask_vit": "a ViT pooled in pseudo-masks (S-Seg Sec. 4.1, baseline 2)",
}

_MASKS = {
    "label": "learned from labels: the masks are not annotation-free",
    "text": "learned from texts: the masks are not made of images alone",
    None: "may have learned from labels: if so, the masks are not annotation-free",
}
"""What features that learned from more than images mean for pseudo-masks made of them."""


class CheckpointRival:
    """A segmenter under a protocol.

    Attributes:
        reference: `NAME:vN` of the checkpoint; `model` for one that has none, as in training.
        view: how images and words are shown, all filled in.
        parents: the checkpoint.
        notes: what the network is, and what its weights and pseudo-masks learned from.
        takes_words: it can be asked for any words; a student knows only its classes.
        tells_background: it was taught background, and needs no threshold to tell it.
    """

    def __init__(self, segmenter: Segmenter, view: View) -> None:
        """Take a segmenter; the view leaves to it what it does not fix.

        Raises:
            ConfigError: a view that cannot be followed.
        """
        self.view = segmenter.complete(view)
        self.parents: tuple[Artifact, ...] = ()
        self.reference = "model"
        self.notes: tuple[str, ...] = ()
        self.takes_words = segmenter.class_names is None
        self.tells_background = segmenter.tells_background
        self._segmenter = segmenter
        if (artifact := segmenter.artifact) is not None:
            self.parents = (artifact,)
            self.reference = artifact.reference
            self.notes = _notes(artifact)

    def check(self, vocabulary: Vocabulary) -> None:
        """Tell before any image is looked at whether it can be asked for a vocabulary.

        Raises:
            ConfigError: a student does not know one of the classes.
        """
        self._segmenter.check(vocabulary)

    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> list[Prediction]:
        """Return the most probable class of each pixel, and its probability; see `Rival`."""
        results = self._segmenter.segment_batch(images, vocabulary, view=self.view)
        return [Prediction(result.label_map, result.probabilities) for result in results]


def open_checkpoint(
    reference: str | None, view: View, store: ArtifactStore, device: torch.device
) -> CheckpointRival:
    """Open a checkpoint, or an export of one.

    Args:
        reference: `NAME`, `NAME:vN`, a path, or None for the newest checkpoint.
        view: what the protocol fixes.
        store: where to look.
        device: where to compute.

    Raises:
        ArtifactError: there is no such checkpoint, or it was changed; or the network reads
            pseudo-masks, and what makes them is not at hand.
        ConfigError: a view that cannot be followed.
    """
    return CheckpointRival(Segmenter.load(reference, store=store, device=str(device)), view)


def _notes(artifact: Artifact) -> tuple[str, ...]:
    if artifact.manifest.kind == "export":
        model = json.loads(artifact.file("model.json").read_text(encoding="utf-8"))
        return (f"exported to ONNX in {artifact.manifest.config['precision']}", *model["notes"])
    return checkpoint_notes(artifact)


def checkpoint_notes(artifact: Artifact) -> tuple[str, ...]:
    """Return what a reader of a checkpoint's answers should know: what it is and learned from."""
    config = build_checkpoint_config(artifact.manifest.config)
    if isinstance(config, StudentConfig):
        return _student_notes(config, artifact)
    return _word_notes(config)


def _word_notes(config: TrainConfig) -> tuple[str, ...]:
    kind = _ARCHITECTURES[config.model.architecture]
    recipe = f", trained from the recipe {config.recipe}" if config.recipe != "custom" else ""
    notes = [f"{kind}{recipe}"]
    if note := warm_start_note(config.model.backbone):
        notes.append(note)
    features = config.masks.generator.features
    learned_from = supervision(features) if features != "auto" else "self"
    if learned_from in _MASKS:
        notes.append(f"The features of its pseudo-masks, {features}, {_MASKS[learned_from]}.")
    return tuple(notes)


def _student_notes(config: StudentConfig, artifact: Artifact) -> tuple[str, ...]:
    stats, backbone = artifact.manifest.stats, config.model.backbone
    teacher = stats.get("teacher")
    of = f" of {printable(teacher)}" if teacher else ""
    notes = [f"S-Seg+ (UperNet on {printable(backbone.name)}), a student{of}"]
    start = warm_start_note(backbone)
    if start is not None:
        notes.append(start)
    licence = stats.get("licence")
    if licence and (start is None or str(licence) not in start):
        notes.append(f"The weights that its backbone started from are under {printable(licence)}.")
    return tuple(notes)
