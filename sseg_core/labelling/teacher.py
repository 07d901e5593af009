"""The teacher: a model that is asked as `sseg eval` asks it, and how sure it is of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import AskConfig, EvalConfig, LabelConfig
from sseg_core.data.images import RGBImage
from sseg_core.errors import ConfigError, DataError, printable
from sseg_core.evaluation.contestants import Contestant, contestant
from sseg_core.evaluation.evaluator import check_prediction, thresholded
from sseg_core.evaluation.examples import BACKGROUND, VOID, Benchmark, Example, LabelMap
from sseg_core.evaluation.rivals.names import ORACLE
from sseg_core.evaluation.rivals.rival import Prediction

_PREDICTS_BACKGROUND = {"threshold", "words", "class"}
_ROUNDING = 1e-3  # by which a mean of probabilities may miss the range


@dataclass(frozen=True, eq=False)
class Labels:
    """What a teacher says of one image.

    Attributes:
        label_map: [H, W] int16 class index, `BACKGROUND`, or `VOID` where it says nothing.
        confidence: [H, W] float32 probability in [0, 1] of what the pixel was labelled, 0 where
            that is nothing; None from a teacher that has no such measure.
    """

    label_map: LabelMap
    confidence: npt.NDArray[np.float32] | None


class Teacher:
    """A model under a protocol.

    Attributes:
        reference: what it is called.
        parents: its checkpoint, if it is one.
        notes: what a reader of its labels should know.
        protocol: as JSON values.
        class_names: of the labels.
        has_background: background is among the labels.
    """

    def __init__(self, asked: Contestant, benchmark: Benchmark) -> None:
        self.reference = asked.reference
        self.parents: tuple[Artifact, ...] = asked.parents
        self.notes = asked.notes
        self.protocol: dict[str, Any] = asked.protocol
        self.class_names = benchmark.class_names
        self.has_background = asked.protocol["background"] in _PREDICTS_BACKGROUND
        self._asked = asked

    def label(self, keys: Sequence[str], images: Sequence[RGBImage]) -> list[Labels]:
        """Return the labels of images.

        A pixel whose best class is less probable than the protocol's threshold is background, and
        the teacher is sure of it by 1 less that probability. Where there is no background among
        the labels, what a model calls so counts as nothing.

        Args:
            keys: to name an image in an error.
            images: [H, W, 3] uint8 RGB each, of any sizes.

        Raises:
            DataError: the model returns what is no label map of the image, or no probabilities.
        """
        examples = [
            Example(key, image, np.broadcast_to(np.int16(VOID), image.shape[:2]))
            for key, image in zip(keys, images, strict=True)
        ]
        predictions = self._asked.predict(examples)
        return [
            self._labels(prediction, example)
            for prediction, example in zip(predictions, examples, strict=True)
        ]

    def _labels(self, prediction: Prediction, example: Example) -> Labels:
        check_prediction(prediction, example, len(self.class_names))
        threshold = self._asked.rule.threshold
        label_map = thresholded(prediction, threshold).astype(np.int16)
        if not self.has_background:
            label_map[label_map == BACKGROUND] = VOID
        confidence = prediction.confidence
        if confidence is None:
            return Labels(label_map, None)
        if confidence.min() < -_ROUNDING or confidence.max() > 1 + _ROUNDING:
            raise DataError(
                f"{self.reference} is sure of the image {printable(example.key)} by "
                f"{confidence.min():.3g} to {confidence.max():.3g}, which are no probabilities.",
                "A confidence lies between 0 and 1.",
            )
        if threshold > 0:
            confidence = np.where(confidence < threshold, 1 - confidence, confidence)
        confidence = np.where(label_map == VOID, 0, confidence).clip(0, 1)
        return Labels(label_map, confidence.astype(np.float32))


def open_teacher(
    config: LabelConfig, benchmark: Benchmark, store: ArtifactStore, device: str
) -> Teacher:
    """Open the model that `config` names, as `sseg eval` does.

    Raises:
        ConfigError: no such model or protocol, an option that does not go with it, or a model
            that takes its labels from the truth.
        ArtifactError: its checkpoint or weights are not at hand.
    """
    if config.model is not None and config.model.startswith(ORACLE):
        raise ConfigError(
            f"{config.model} takes its labels from the truth, so it cannot be a teacher.",
            "Choose a model that is asked with words, such as a checkpoint.",
        )
    options = {name: getattr(config, name) for name in AskConfig.model_fields}
    return Teacher(contestant(EvalConfig(**options), benchmark, store, device), benchmark)
