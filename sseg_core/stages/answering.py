"""Who answers `sseg predict`: a checkpoint, an export without torch, or any rival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PredictConfig
from sseg_core.data.images import RGBImage
from sseg_core.errors import ArtifactError, ConfigError, printable
from sseg_core.evaluation.rivals.names import ORACLE, names_checkpoint
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.text.templates import template_texts

Answer = Callable[[Sequence[RGBImage]], list[Segmentation]]


@dataclass(frozen=True, eq=False)
class Answerer:
    """A model that was told what to look for.

    Attributes:
        reference: what it is called.
        parents: the artifact it came from, if it did.
        view: how it shows images and words to its network; None where it does not tell.
        vocabulary: what it looks for.
        notes: what its user should know.
        answer: segments [H, W, 3] uint8 RGB images of any sizes.
    """

    reference: str
    parents: tuple[Artifact, ...]
    view: View | None
    vocabulary: Vocabulary
    notes: tuple[str, ...]
    answer: Answer


def open_model(config: PredictConfig, store: ArtifactStore, device: str) -> Answerer:
    """Open the model that `config` names, and ask whether it can look for the classes.

    Raises:
        ConfigError: an unusable class name or template, a class that a student does not know, no
            such model, or an option that it cannot follow.
        ArtifactError: there is no checkpoint, it was changed, or weights are not at hand.
    """
    vocabulary = Vocabulary.parse(config.classes, config.background_words or ())
    templates = config.templates
    view = View(
        short_side=config.image_size,
        window=config.window,
        stride=config.stride,
        blend=config.blend or "taper",
        templates=None if templates is None else template_texts(templates),
        logit_scale=config.logit_scale,
        refine=config.refine or "none",
        scales=config.scales,
        flip=config.flip,
    )
    if config.model is not None and config.model.startswith(ORACLE):
        raise ConfigError(
            f"{printable(config.model)} takes its classes from a benchmark's truth.",
            "Choose a model that is asked with words, such as a checkpoint.",
        )
    if names_checkpoint(config.model):
        return _segmenter(config, store, device, vocabulary, view)
    return _rival(config, store, device, vocabulary, view)


def _segmenter(
    config: PredictConfig, store: ArtifactStore, device: str, vocabulary: Vocabulary, view: View
) -> Answerer:
    if config.weights is not None:
        raise ConfigError("A checkpoint has its own weights.", "Leave weights out.")
    if config.model is None and not store.artifacts("checkpoint"):
        raise ArtifactError(
            f"There is no checkpoint in {printable(store.root)}.",
            "Train one (sseg train; sseg demo shows it all in minutes), or take a model with "
            "published weights: --model maskclip:ViT-B-16, or --model groupvit.",
        )
    segmenter = Segmenter.load(config.model, store=store, device=device)
    artifact = segmenter.artifact
    assert artifact is not None
    is_asked_with_words = segmenter.class_names is None
    if not is_asked_with_words:
        _refuse_words(config, artifact.reference)
    vocabulary, notes = _with_contrast(config, vocabulary, is_needed=is_asked_with_words)
    segmenter.check(vocabulary)
    view = segmenter.complete(view)

    def answer(images: Sequence[RGBImage]) -> list[Segmentation]:
        return segmenter.segment_batch(
            images,
            vocabulary,
            view=view,
            threshold=config.threshold,
            all_probabilities=config.npz,
        )

    return Answerer(artifact.reference, (artifact,), view, vocabulary, notes, answer)


def _rival(
    config: PredictConfig, store: ArtifactStore, device: str, vocabulary: Vocabulary, view: View
) -> Answerer:
    # Rivals need torch, and some need open_clip or transformers: exports do without.
    from sseg_core.device import pick_device
    from sseg_core.evaluation.rivals.registry import open_rival

    if config.npz:
        raise ConfigError(
            f"{printable(config.model)} tells the probability of the best class only.",
            "Leave --npz out, or choose a checkpoint.",
        )
    rival = open_rival(
        config.model, view, store=store, device=pick_device(device), weights=config.weights
    )
    vocabulary, notes = _with_contrast(config, vocabulary, is_needed=True)

    def answer(images: Sequence[RGBImage]) -> list[Segmentation]:
        predictions = rival.segment(images, vocabulary)
        if config.threshold > 0 and any(p.confidence is None for p in predictions):
            raise ConfigError(
                f"{rival.reference} does not tell how sure it is: a threshold has no meaning.",
                "Leave --threshold out, or let it return a Prediction with a confidence.",
            )
        return [
            Segmentation.of(prediction, vocabulary.class_names, image, config.threshold)
            for prediction, image in zip(predictions, images, strict=True)
        ]

    notes = (*rival.notes, *notes)
    return Answerer(rival.reference, rival.parents, rival.view, vocabulary, notes, answer)


def _with_contrast(
    config: PredictConfig, vocabulary: Vocabulary, *, is_needed: bool
) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return what is asked, and what is to be said of it."""
    if len(vocabulary.class_names) > 1 or config.background_words is not None or not is_needed:
        return vocabulary, ()
    name = printable(vocabulary.class_names[0])
    contrasted = vocabulary.contrasted()
    count = len(contrasted.words) - len(vocabulary.words)
    note = (
        f"{name!r} alone would take every pixel: it is contrasted with {count} common words as "
        "background (--background WORDS chooses others)"
    )
    return contrasted, (note,)


def _refuse_words(config: PredictConfig, reference: str) -> None:
    for option in ("templates", "logit_scale", "background_words"):
        if getattr(config, option) is not None:
            raise ConfigError(
                f"{reference} knows fixed classes and is not asked with words: {option} has no "
                "meaning.",
                "Leave it out.",
            )
