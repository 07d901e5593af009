"""What can be scored: anything that turns images and words into label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sseg_core.artifacts import Artifact
from sseg_core.data.images import RGBImage
from sseg_core.evaluation.examples import Example
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary

__all__ = ["Prediction", "Predictor", "Rival", "predictor"]


class Rival(Protocol):
    """A model that is asked with words."""

    @property
    def reference(self) -> str:
        """What it is called in results, such as `maskclip:ViT-B-16`."""
        ...

    @property
    def view(self) -> View | None:
        """How it shows images and words to its network, filled in; None where it does not tell."""
        ...

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """The artifacts it came from."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its score should know: what it learned from, licences."""
        ...

    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> Sequence[Prediction]:
        """Return a label map of each image, in the image's own size.

        Args:
            images: [H, W, 3] uint8 RGB each, of any sizes.
            vocabulary: the words to look for.
        """
        ...


Predictor = Callable[[Sequence[Example]], Sequence[Prediction]]
"""What the evaluator calls: an oracle needs the truth, a `Rival` only the images."""


def predictor(rival: Rival, vocabulary: Vocabulary) -> Predictor:
    """Return the predictor that asks a rival for a vocabulary."""

    def predict(examples: Sequence[Example]) -> Sequence[Prediction]:
        return rival.segment([example.image for example in examples], vocabulary)

    return predict
