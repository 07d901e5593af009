"""What the segmenter needs of a network: it looks at images, and tells what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import RGBImage
from sseg_core.inference.looks import Looks
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary


class Seen(Protocol):
    """What a network made of the windows of an image."""

    def label(self, image: RGBImage) -> Prediction:
        """Return the best class of every pixel, and its probability.

        Args:
            image: [H, W, 3] uint8, whose pixels they are.
        """
        ...

    def class_probabilities(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return [C, H, W] float32 the probability of every class at every pixel.

        Args:
            size: H, W, to which the image is stretched.
        """
        ...


class Network(Protocol):
    """A network that finds classes in images; `WordNetwork` and `ClassNetwork` are those."""

    image_size: int
    """The short side of an image as the network sees it, unless a view says another."""

    @property
    def template(self) -> str | None:
        """The text around a class name; None for a network that is not asked with words."""
        ...

    @template.setter
    def template(self, template: str) -> None: ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The only classes that it knows; None for one that takes any words."""
        ...

    @property
    def tells_background(self) -> bool:
        """It was taught what is none of its classes, and needs no threshold to tell it."""
        ...

    def complete(self, view: View) -> View:
        """Return the view with the network's own choice for all that it leaves open."""
        ...

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise ConfigError where the network cannot be asked for a class."""
        ...

    def look(self, looks: Looks, vocabulary: Vocabulary, view: View) -> Sequence[Seen]:
        """Return what it sees in each image.

        Args:
            looks: the images.
            vocabulary: what to look for.
            view: filled in.

        Raises:
            ConfigError: it cannot be asked for a class, or a template cannot hold a word.
        """
        ...
