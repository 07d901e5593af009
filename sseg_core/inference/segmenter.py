"""The trained model as users call it: an image and class names in, a `Segmentation` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS
from sseg_core.config import StudentConfig, TrainConfig, build_checkpoint_config
from sseg_core.data.images import RGBImage
from sseg_core.device import pick_device
from sseg_core.errors import ArtifactError
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.combine import BACKGROUND
from sseg_core.inference.image_input import ImageLike, as_rgb
from sseg_core.inference.looks import looks_at
from sseg_core.inference.network import Network
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.word_network import WordNetwork
from sseg_core.text.prompts import check_class_names

__all__ = ["Segmentation", "Segmenter"]

_Config = TypeVar("_Config", TrainConfig, StudentConfig)


class Segmenter:
    """A trained model, ready to segment images.

    By any class names where the network takes words; a student of self-training only by those that
    it was taught.

    Attributes:
        artifact: the checkpoint it came from; None when built from parts.
    """

    def __init__(self, network: Network, artifact: Artifact | None = None) -> None:
        """Take a network, such as `WordNetwork(model, tokenizer, image_size)`."""
        self.artifact = artifact
        self._network = network

    @property
    def image_size(self) -> int:
        """The short side of an image as the network sees it, unless a call says another."""
        return self._network.image_size

    @property
    def template(self) -> str | None:
        """The text around a class name, `{}` for the name; None if it is not asked with words."""
        return self._network.template

    @template.setter
    def template(self, template: str) -> None:
        self._network.template = template

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The only classes that it knows; None if it takes any words."""
        return self._network.class_names

    @property
    def tells_background(self) -> bool:
        """It was taught what is none of its classes, and needs no threshold to tell it."""
        return self._network.tells_background

    @classmethod
    def load(
        cls,
        reference: str | None = None,
        *,
        store: ArtifactStore | None = None,
        device: str = "auto",
    ) -> Segmenter:
        """Load a checkpoint artifact.

        Args:
            reference: `NAME`, `NAME:vN`, a path, or None for the newest checkpoint.
            store: where to look; default: `$SSEG_STORE`, else `./sseg-artifacts`.
            device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.

        Raises:
            ArtifactError: there is no such checkpoint, or it was changed; or the network reads
                pseudo-masks, and what makes them is not at hand.
            ConfigError: there is no such device.
        """
        store = store or ArtifactStore.default()
        artifact = store.find(reference, "checkpoint")
        weights = artifact.verified_file(WEIGHTS)
        config = build_checkpoint_config(artifact.manifest.config)
        target = pick_device(device)
        if isinstance(config, StudentConfig):
            student = ClassNetwork.load(
                _from_scratch(config),
                weights,
                target,
                teacher=_word_teacher(artifact, store),
                name=artifact.reference,
            )
            return cls(student, artifact)
        digest = artifact.manifest.files[WEIGHTS].sha256
        return cls(WordNetwork.load(_from_scratch(config), weights, digest, target), artifact)

    def check(self, class_names: Sequence[str] | Vocabulary) -> None:
        """Tell before any work whether it can be asked for some classes.

        Raises:
            ConfigError: an unusable class name, or one that a student was not taught.
        """
        self._network.check(_vocabulary(class_names))

    def segment(
        self,
        image: ImageLike,
        class_names: Sequence[str],
        *,
        threshold: float = 0.0,
        image_size: int | None = None,
    ) -> Segmentation:
        """Segment one image by the given class names.

        Args:
            image: a file, [H, W, 3] uint8 RGB, or a Pillow image, which is taken like a file.
            class_names: the words to look for; every pixel gets one of them, or is background where
                a student tells that by itself.
            threshold: pixels whose best probability is lower are background, in [0, 1].
            image_size: the short side as the network sees it; default: `self.image_size`.

        Raises:
            DataError: the image cannot be read, or is no RGB image.
            ConfigError: an unusable class name, template or size, or a class that a student was not
                taught.
        """
        pixels = as_rgb(image)
        return self.segment_batch(
            [pixels], class_names, threshold=threshold, image_size=image_size
        )[0]

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[RGBImage],
        class_names: Sequence[str] | Vocabulary,
        *,
        view: View = View(),  # noqa: B008 - frozen
        threshold: float = 0.0,
        image_size: int | None = None,
    ) -> list[Segmentation]:
        """Segment several [H, W, 3] uint8 RGB images; see `segment`.

        Images of one size go through the network together; others never share a batch, so a
        result does not depend on what else is in the list.

        Args:
            images: of any sizes.
            class_names: the words to look for, or a vocabulary with several words for a class and
                words for background.
            view: how images and words are shown to the network.
            threshold: as in `segment`.
            image_size: as in `segment`; comes before the view's.
        """
        vocabulary = _vocabulary(class_names)
        view = self.complete(replace(view, short_side=image_size or view.short_side))
        pixels = [as_rgb(image) for image in images]
        predictions: dict[int, Prediction] = {}
        for looks in looks_at(pixels, view):
            seen = self._network.look(looks, vocabulary, view)
            for index, own in zip(looks.members, seen, strict=True):
                predictions[index] = own.label(pixels[index])
        return [
            _segmentation(predictions[index], threshold, vocabulary, images[index])
            for index in range(len(images))
        ]

    @torch.inference_mode()
    def class_probabilities(
        self, image: ImageLike, class_names: Sequence[str], *, image_size: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class at every pixel, [C, H, W] float32.

        They sum to 1, but for what a student gives to background. The arguments are those of
        `segment`, which needs far less memory.
        """
        pixels = as_rgb(image)
        view = self.complete(View(short_side=image_size))
        [looks] = looks_at([pixels], view)
        [seen] = self._network.look(looks, _vocabulary(class_names), view)
        scores: npt.NDArray[np.float32] = seen.class_probabilities(pixels.shape[:2]).cpu().numpy()
        return scores

    def complete(self, view: View) -> View:
        """Return the view with this model's own choice for all that it leaves open."""
        return self._network.complete(view)


def _vocabulary(class_names: Sequence[str] | Vocabulary) -> Vocabulary:
    if isinstance(class_names, Vocabulary):
        return class_names
    return Vocabulary.of(check_class_names(class_names))


def _segmentation(
    prediction: Prediction, threshold: float, vocabulary: Vocabulary, image: RGBImage
) -> Segmentation:
    assert prediction.confidence is not None
    low = prediction.confidence < threshold
    return Segmentation(
        label_map=np.where(low, np.int16(BACKGROUND), prediction.label_map),
        probabilities=prediction.confidence,
        class_names=vocabulary.class_names,
        image=image,
    )


def _from_scratch(config: _Config) -> _Config:
    """Return the configuration without what its backbone started from.

    All weights are in the checkpoint: those that training started from need not be there.
    """
    start = {"pretrained": False, "weights": None}
    backbone = config.model.backbone.model_copy(update=start)
    model = config.model.model_copy(update={"backbone": backbone})
    return config.model_copy(update={"model": model})


def _word_teacher(student: Artifact, store: ArtifactStore) -> str | None:
    """Return the teacher of a student; the teacher's own teacher where that is a student too."""
    teacher: str | None = student.manifest.stats.get("teacher")
    seen = {student.reference}
    while teacher is not None and teacher not in seen:
        seen.add(teacher)
        try:
            stats = store.find(teacher, "checkpoint").manifest.stats
        except ArtifactError:
            return teacher  # no checkpoint, or gone from this store
        if "teacher" not in stats:
            return teacher
        teacher = stats["teacher"]
    return None
