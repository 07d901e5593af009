"""Networks with fixed classes: the students of self-training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sseg_core.checkpoint import load_weights
from sseg_core.config import StudentConfig
from sseg_core.data.images import RGBImage
from sseg_core.errors import ConfigError, printable
from sseg_core.inference.asked_channels import asked_channels
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.device_pixels import on_device
from sseg_core.inference.known_classes import KnownClasses
from sseg_core.inference.looks import Looks
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.score_maps import label_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box, Window
from sseg_core.models.student import build_student
from sseg_core.structures import ClassLogits


class ClassNetwork:
    """A student: knows the classes that its teacher's labels had, and perhaps background.

    It may be asked for some of its classes; the others then do not count. A pixel's probabilities
    are the softmax over those that are asked for, and background where the student was taught it
    and the vocabulary leaves room for it: such a pixel is labelled `BACKGROUND`. So is what is
    another of its classes where a single one is asked for, and it was taught no background.

    Attributes:
        image_size: the short side of an image as the network sees it, unless a view says another.
        known: what it can be asked for.
        template: None: it is not asked with words.
    """

    def __init__(
        self,
        student: nn.Module,
        config: StudentConfig,
        teacher: str | None = None,
        name: str = "The student",
    ) -> None:
        """Take a student.

        Args:
            student: returns `ClassLogits` for [B, 3, H, W] float RGB in [0, 1]; on the device where
                it computes.
            config: of its training.
            teacher: reference of the model behind it that takes any words, for hints.
            name: what it is called in errors.
        """
        self.image_size = config.loader.short_side
        self.known = KnownClasses(config.model.class_names, name=name, teacher=teacher)
        self._has_background = config.model.has_background
        self._student = student.eval()

    @classmethod
    def load(
        cls,
        config: StudentConfig,
        weights: Path,
        device: torch.device,
        *,
        teacher: str | None,
        name: str,
    ) -> ClassNetwork:
        """Build the network of a checkpoint.

        Args:
            config: of its training; its backbone starts from nothing.
            weights: file of all its weights.
            device: where to compute.
            teacher: see the constructor, as for `name`.
            name: reference of the checkpoint.

        Raises:
            ArtifactError: the weights are of another model.
        """
        student = build_student(config.model)
        load_weights(student, weights)
        return cls(student.to(device), config, teacher, name)

    @property
    def student(self) -> nn.Module:
        """The network itself, in eval mode."""
        return self._student

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

    @property
    def tells_background(self) -> bool:
        """Its teacher's labels had background, so that it needs no threshold to tell it."""
        return self._has_background

    def complete(self, view: View) -> View:
        """Return the view with what is asked of words left out, and the rest filled in."""
        completed = view.completed(short_side=self.image_size, templates=None, logit_scale=None)
        return completed.without_words()

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise ConfigError where a class of the vocabulary is none of the student's."""
        self.known.find(vocabulary)

    @torch.inference_mode()
    def look(self, looks: Looks, vocabulary: Vocabulary, view: View) -> list[SeenClasses]:
        """Return the logits of the windows of each image; see `Network`."""
        channels, asked = asked_channels(
            self.known, vocabulary, has_background=self._has_background
        )
        device = next(self._student.parameters()).device
        index = torch.tensor(channels, device=device)
        values: list[list[Tensor]] = [[] for _ in looks.members]
        windows: list[Window] = []
        stride = 1
        for window, shown in looks.windows():
            output: ClassLogits = self._student(on_device(shown, device))
            # Without a copy where all are asked for: of a thousand classes it would be large.
            is_all = channels == list(range(output.logits.shape[1]))
            logits_BChw = output.logits if is_all else output.logits.index_select(1, index)
            windows.append(window)
            stride = output.stride
            for own, logits_Chw in zip(values, logits_BChw.float(), strict=True):
                own.append(logits_Chw.permute(1, 2, 0))
        return [SeenClasses(CellMaps(own, windows, stride), asked, view) for own in values]


@dataclass(frozen=True, eq=False)
class SeenClasses:
    """The logits of the windows of an image; see `Seen`.

    Attributes:
        logits: of what was asked for, background last if it was among that.
        asked: a word for each of them.
        view: its `min_share` and `refine` are followed.
    """

    logits: CellMaps
    asked: Vocabulary
    view: View

    @torch.inference_mode()
    def label(self, image: RGBImage) -> Prediction:
        """Return the most probable class of every pixel or background, and its probability."""
        return label_pixels(self._scores, self.asked, image, self.view)

    @torch.inference_mode()
    def class_probabilities(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return [C, H, W] float32; where background is told apart, it has the rest to 1."""
        num_classes = len(self.asked.class_names)
        scores = np.empty((num_classes, *size), np.float32)
        for box, block_rxC in self._scores(size):
            place = slice(box.top, box.bottom), slice(box.left, box.right)
            scores[:, *place] = block_rxC[..., :num_classes].permute(2, 0, 1).cpu().numpy()
        return scores

    def _scores(self, size: tuple[int, int]) -> Iterator[tuple[Box, Tensor]]:
        """Yield the mean over the windows of the probabilities: logits are interpolated first."""
        return self.logits.blocks(size, lambda logits_rxC: logits_rxC.softmax(dim=2))
