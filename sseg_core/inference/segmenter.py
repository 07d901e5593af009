"""The trained model as users call it: an image and class names in, a `Segmentation` out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sseg_core.data.images import RGBImage
from sseg_core.inference.exported import load_network
from sseg_core.inference.image_input import ImageLike, as_rgb
from sseg_core.inference.looks import looks_at
from sseg_core.inference.network import Network
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sseg_core.artifacts import Artifact, ArtifactStore

__all__ = ["Segmentation", "Segmenter"]


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
        """Load a checkpoint, or a model that `sseg export` wrote, which needs no torch.

        Args:
            reference: `NAME`, `NAME:vN`, a path, or None for the newest checkpoint. A name is that
                of a checkpoint, or else of an export.
            store: where to look; default: `$SSEG_STORE`, else `./sseg-artifacts`.
            device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.

        Raises:
            ArtifactError: there is no such model, or it was changed; or the network reads
                pseudo-masks, and what makes them is not at hand.
            ConfigError: there is no such device.
            SsegError: onnxruntime is not installed, for an export.
        """
        if reference is not None and _is_export(Path(reference)):
            return cls(load_network(Path(reference), device), _artifact_at(Path(reference)))
        from sseg_core.artifacts import ArtifactStore

        artifact = (store or ArtifactStore.default()).find(reference, "checkpoint", "export")
        if artifact.manifest.kind == "export":
            return cls(load_network(artifact.path, device), artifact)
        from sseg_core.inference.trained import load_trained

        return cls(load_trained(artifact, device), artifact)

    def check(self, class_names: Sequence[str] | Vocabulary) -> None:
        """Tell before any work whether it can be asked for some classes.

        Raises:
            ConfigError: an unusable class name, or one that a student was not taught.
        """
        self._network.check(self.vocabulary(class_names))

    def vocabulary(self, class_names: Sequence[str] | Vocabulary) -> Vocabulary:
        """Return the words that class names stand for.

        A single class is contrasted with common words, which are background: among itself alone
        it would take every pixel.

        Raises:
            ConfigError: an unusable class name.
        """
        if isinstance(class_names, Vocabulary):
            return class_names
        vocabulary = Vocabulary.parse(class_names)
        is_alone = len(vocabulary.class_names) == 1 and self.class_names is None
        return vocabulary.contrasted() if is_alone else vocabulary

    def segment(
        self,
        image: ImageLike,
        class_names: Sequence[str] | Vocabulary,
        *,
        threshold: float = 0.0,
        image_size: int | None = None,
        view: View = View(),  # noqa: B008 - frozen
    ) -> Segmentation:
        """Segment one image by the given class names.

        Args:
            image: a file, [H, W, 3] uint8 RGB, or a Pillow image, which is taken like a file.
            class_names: the words to look for, each a class, or "tv=television|tv monitor" with
                synonyms; every pixel gets one of them, or is background where a student tells
                that by itself, or where a class is alone. Or a vocabulary.
            threshold: pixels whose best probability is lower are background, in [0, 1].
            image_size: the short side as the network sees it; default: `self.image_size`.
            view: how image and words are shown to the network otherwise.

        Raises:
            DataError: the image cannot be read, or is no RGB image.
            ConfigError: an unusable class name, template or size, or a class that a student was not
                taught.
        """
        return self.segment_batch(
            [as_rgb(image)], class_names, threshold=threshold, image_size=image_size, view=view
        )[0]

    def segment_batch(
        self,
        images: Sequence[RGBImage],
        class_names: Sequence[str] | Vocabulary,
        *,
        view: View = View(),  # noqa: B008 - frozen
        threshold: float = 0.0,
        image_size: int | None = None,
        all_probabilities: bool = False,
    ) -> list[Segmentation]:
        """Segment several [H, W, 3] uint8 RGB images; see `segment`.

        Images of one size go through the network together; others never share a batch, so a
        result does not depend on what else is in the list.

        Args:
            images: of any sizes.
            class_names: as in `segment`.
            view: how images and words are shown to the network.
            threshold: as in `segment`.
            image_size: as in `segment`; comes before the view's.
            all_probabilities: tell those of every class at every pixel too, which needs memory for
                all of them.
        """
        vocabulary = self.vocabulary(class_names)
        view = self.complete(replace(view, short_side=image_size or view.short_side))
        pixels = [as_rgb(image) for image in images]
        results: dict[int, Segmentation] = {}
        for looks in looks_at(pixels, view):
            seen = self._network.look(looks, vocabulary, view)
            for index, own in zip(looks.members, seen, strict=True):
                image = pixels[index]
                every = own.class_probabilities(image.shape[:2]) if all_probabilities else None
                results[index] = Segmentation.of(
                    own.label(image), vocabulary.class_names, image, threshold, every
                )
        return [results[index] for index in range(len(images))]

    def class_probabilities(
        self, image: ImageLike, class_names: Sequence[str], *, image_size: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class at every pixel, [C, H, W] float32.

        They sum to 1, but for what background has. The arguments are those of `segment`, which
        needs far less memory.
        """
        [result] = self.segment_batch(
            [as_rgb(image)], class_names, image_size=image_size, all_probabilities=True
        )
        assert result.class_probabilities is not None
        return result.class_probabilities

    def complete(self, view: View) -> View:
        """Return the view with this model's own choice for all that it leaves open."""
        return self._network.complete(view)


def _is_export(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (folder / "model.json").is_file()  # what is wrong with it is told when it is loaded
    return isinstance(manifest, dict) and manifest.get("kind") == "export"


def _artifact_at(folder: Path) -> Artifact | None:
    try:
        from sseg_core.artifacts import read_artifact
    except ImportError:  # an exported model runs without pydantic
        return None
    return read_artifact(folder)
