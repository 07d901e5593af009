"""Whether the graphs say what the network says, in many sizes and with many classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.data.toyworld import render_scene
from sseg_core.errors import SsegError
from sseg_core.export.precision import Precision

Floats = npt.NDArray[np.float32]

CASES = (
    (1, 1, 1, 1), (1, 31, 33, 21), (1, 1, 300, 2), (1, 64, 64, 1), (3, 33, 65, 2), (1, 96, 224, 21),
    (2, 75, 107, 171), (1, 160, 128, 5),
)  # fmt: skip
"""Images, height, width and classes: square and not, odd, smaller than a cell, of whole cells and
not."""

_LARGE = (1, 448, 448, 21)
"""The size at which the paper's network is used."""

TOLERANCES: dict[Precision, tuple[float, float]] = {
    # Probabilities of classes, sigmoids of masks and text features may differ by the first, and so
    # many of the cells must have the same label. fp32 differs by the order of sums, which a
    # temperature of up to 100 magnifies: 4e-5 on the toy world. fp16 has eleven bits: 2e-3 there.
    # Bytes move probabilities by some hundredths: what is refused there is a graph that fell apart,
    # and the score in parity.json tells the rest.
    "fp32": (1e-3, 0.999),
    "fp16": (2e-2, 0.99),
    "int8": (3e-1, 0.9),
}


_HINT = "Nothing was published. Try another --precision, or another version of torch."


@dataclass(frozen=True)
class Case:
    """How far graph and network are apart for some images.

    Attributes:
        images: how many went through together.
        height: of the images.
        width: of the images.
        classes: that were asked for.
        probability: largest difference of a probability: of a class for a mask, or of a student's
            class at a cell.
        mask: largest difference of a mask's sigmoid; None of a student.
        same_labels: share of the cells whose best class is the same.
    """

    images: int
    height: int
    width: int
    classes: int
    probability: float
    mask: float | None
    same_labels: float


@dataclass(frozen=True)
class Parity:
    """All that was compared.

    Attributes:
        precision: of the graphs.
        text_features: largest difference of a text feature; None of a student.
        cases: of the image graph.
    """

    precision: Precision
    text_features: float | None
    cases: tuple[Case, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, with the tolerances."""
        probability, labels = TOLERANCES[self.precision]
        tolerances = {"probability": probability, "same_labels": labels}
        return {**asdict(self), "tolerances": tolerances}

    def check(self) -> None:
        """Raise SsegError where a difference is larger than the precision allows."""
        probability, labels = TOLERANCES[self.precision]
        if self.text_features is not None and not self.text_features <= probability:
            raise SsegError(
                "The exported graph differs from the network for words: by "
                f"{self.text_features:.2g} in a feature ({self.precision} may differ by "
                f"{probability:g}).",
                _HINT,
            )
        for case in self.cases:
            difference = max(case.probability, case.mask or 0.0)
            is_close = difference <= probability and case.same_labels >= labels
            if not is_close:  # or not a number
                raise SsegError(
                    f"The exported graph differs from the network for images of {case.height} x "
                    f"{case.width} pixels and {case.classes} classes: by {difference:.2g} in "
                    f"a probability, and {100 * case.same_labels:.2f} % of the labels are the "
                    f"same ({self.precision} may differ by {probability:g}, and "
                    f"{100 * labels:g} % are needed).",
                    _HINT,
                )


def compare_words(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    graph: Callable[[Floats, Floats], tuple[Floats, Floats]],
    features: Floats,
    sizes: Sequence[tuple[int, int, int, int]] = (*CASES, _LARGE),
) -> tuple[Case, ...]:
    """Compare mask logits [B, Q, h, w] and class probabilities [B, Q, C].

    Args:
        network: returns both for [B, 3, H, W] images and [C, D] text features.
        graph: likewise.
        features: [C, D] of as many words as the largest case asks for.
        sizes: images, height, width and classes of each case.
    """
    cases = []
    for count, height, width, classes in sizes:
        images = _scenes(count, height, width)
        words = features[:classes]
        with torch.inference_mode():
            logits, expected = network(torch.from_numpy(images), torch.from_numpy(words))
        found_logits, found = graph(images, words)
        masks = [_sigmoid(logits.numpy()), _sigmoid(found_logits)]
        labels = [_labels(masks[0], expected.numpy()), _labels(masks[1], found)]
        cases.append(
            Case(
                count, height, width, classes,
                probability=_largest(expected.numpy(), found),
                mask=_largest(*masks),
                same_labels=float((labels[0] == labels[1]).mean()),
            )
        )  # fmt: skip
    return tuple(cases)


def compare_classes(
    network: Callable[[Tensor], Tensor],
    graph: Callable[[Floats], Floats],
    sizes: Sequence[tuple[int, int, int, int]] = (*CASES, _LARGE),
) -> tuple[Case, ...]:
    """Compare the [B, C, h, w] logits of a student, as probabilities; see `compare_words`."""
    cases = []
    for count, height, width, _ in sizes:
        images = _scenes(count, height, width)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).softmax(dim=1).numpy()
        found = torch.from_numpy(graph(images)).softmax(dim=1).numpy()
        same = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
        difference = _largest(expected, found)
        cases.append(Case(count, height, width, expected.shape[1], difference, None, same))
    return tuple(cases)


def _scenes(count: int, height: int, width: int) -> Floats:
    """Return [count, 3, height, width] toy scenes in [0, 1], drawn to that size."""
    scenes = [render_scene(0, number, 64).image for number in range(count)]
    pixels = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float() / 255
    drawn: Floats = F.interpolate(pixels, (height, width), mode="bilinear").numpy()
    return drawn


def _sigmoid(logits: Floats) -> Floats:
    return torch.from_numpy(logits).sigmoid().numpy()


def _labels(masks_BQhw: Floats, classes_BQC: Floats) -> npt.NDArray[np.intp]:
    weights = masks_BQhw / masks_BQhw.sum(axis=1, keepdims=True)
    scores_BChw: Floats = np.einsum("bqc,bqhw->bchw", classes_BQC, weights, optimize=True)
    best: npt.NDArray[np.intp] = np.argmax(scores_BChw, axis=1)
    return best


def _largest(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())
