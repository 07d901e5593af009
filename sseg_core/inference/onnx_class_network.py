"""Networks with fixed classes, exported: students of self-training without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sseg_core.errors import ConfigError, printable
from sseg_core.inference.array_cells import SeenCells
from sseg_core.inference.array_labels import SeenArrays
from sseg_core.inference.asked_channels import asked_channels
from sseg_core.inference.known_classes import KnownClasses
from sseg_core.inference.looks import Looks
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.inference.onnx_view import check_view, float_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Window


class OnnxClassNetwork:
    """A student as `sseg export` wrote it; what it answers is told by `ClassNetwork`.

    Attributes:
        image_size: the short side of an image as the network sees it, unless a view says another.
        known: what it can be asked for.
        tells_background: it was taught background, and needs no threshold to tell it.
    """

    def __init__(
        self,
        graph: OnnxSession,
        known: KnownClasses,
        *,
        image_size: int,
        stride: int,
        has_background: bool,
    ) -> None:
        """Take the graph of a student.

        Args:
            graph: images to logits of the classes, background last where it is told apart.
            known: what it can be asked for.
            image_size: see the attribute.
            stride: pixels of the image per cell of the logits.
            has_background: see the attribute `tells_background`.
        """
        self.image_size = image_size
        self.known = known
        self.tells_background = has_background
        self._graph = graph
        self._stride = stride

    @property
    def template(self) -> str | None:
        """None: a student is not asked with words."""
        return None

    @template.setter
    def template(self, template: str) -> None:
        raise ConfigError(
            f"{self.known.name} knows classes, not words: the template {printable(template)!r} "
            "has no meaning.",
            "Leave it out.",
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it knows."""
        return self.known.names

    def complete(self, view: View) -> View:
        """Return the view with what is asked of words left out, and the rest filled in.

        Raises:
            ConfigError: the view asks for what needs torch.
        """
        check_view(view)
        completed = view.completed(short_side=self.image_size, templates=None, logit_scale=None)
        return completed.without_words()

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise ConfigError where a class of the vocabulary is none of the student's."""
        self.known.find(vocabulary)

    def look(self, looks: Looks, vocabulary: Vocabulary, view: View) -> list[SeenArrays]:
        """Return the logits of the windows of each image; see `Network`."""
        check_view(view)
        channels, asked = asked_channels(
            self.known, vocabulary, has_background=self.tells_background
        )
        logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in looks.members]
        windows: list[Window] = []
        for window, shown in looks.windows():
            [logits_BChw] = self._graph({"images": float_pixels(shown)}, ["logits"])
            windows.append(window)
            for own, logits_Chw in zip(logits, logits_BChw, strict=True):
                own.append(np.ascontiguousarray(logits_Chw[channels].transpose(1, 2, 0)))
        return [
            SeenArrays(SeenCells(own, windows, self._stride), asked, view.min_share)
            for own in logits
        ]
