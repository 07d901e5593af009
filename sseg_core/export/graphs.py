"""The graphs of a trained network: images to masks and classes, and words to their features.

torch's exporter by tracing writes them (`dynamo=False`). The one by `torch.export` reasons about
every size as a formula; for a Swin, whose maps are padded to windows stage by stage, that took more
than ten minutes where tracing takes 15 seconds, and the traced graph takes any size as well.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.errors import SsegError, printable
from sseg_core.export.traceable import GridPool, traceable
from sseg_core.models.embedding import Model
from sseg_core.models.student import Student

OPSET = 17
"""The first with LayerNormalization as one operation."""

_AXES: Mapping[str, dict[int, str]] = {
    "images": {0: "B", 2: "H", 3: "W"},
    "text_features": {0: "C"},
    "mask_logits": {0: "B", 2: "h", 3: "w"},
    "class_probabilities": {0: "B", 2: "C"},
    "logits": {0: "B", 2: "h", 3: "w"},
}
_TEXT_AXES: Mapping[str, dict[int, str]] = {
    "token_ids": {0: "N", 1: "L"},
    "text_features": {0: "N"},
}
# No two sizes are the same, and none is one: what is equal by chance could be taken for one thing.
_IMAGES = (2, 3, 75, 107)
_CLASSES = 5
_TEXTS = (3, 7)


class ImageGraph(nn.Module):
    """Images and words in; masks, and what each of them shows, out (S-Seg App. A.1).

    Args:
        model: in eval mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, text_features: Tensor, logit_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return [B, Q, h, w] mask logits and [B, Q, C] class probabilities.

        Args:
            images: [B, 3, H, W] float RGB in [0, 1].
            text_features: [C, D] unit vectors.
            logit_scale: scalar, 1 / sigma.
        """
        output = self.model.encode_images(images)
        masks_BQD = self.model.project_masks(output.mask_features)
        classes_BQC = (logit_scale * (masks_BQD @ text_features.T)).softmax(dim=-1)
        return output.mask_logits, classes_BQC


class TextGraph(nn.Module):
    """Token ids in, unit vectors out.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return [N, D] features of [N, L] token ids."""
        return self.model.encode_texts(token_ids)


class ClassGraph(nn.Module):
    """Images in, logits of a student's classes out.

    Args:
        student: in eval mode; it is copied.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = copy.deepcopy(student)
        for pool in self.student.head.pools:
            assert isinstance(pool, nn.Sequential)
            assert isinstance(pool[0], nn.AdaptiveAvgPool2d)
            pool[0] = GridPool(pool[0].output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, C, h, w] logits; background, where it is told apart, is the last channel."""
        logits: Tensor = self.student(images).logits
        return logits


def write_word_graphs(model: Model, image_path: Path, text_path: Path) -> None:
    """Write the two graphs of a network that takes words.

    Args:
        model: on the CPU, in eval mode.
        image_path: file of the image graph.
        text_path: file of the text graph.

    Raises:
        SsegError: torch cannot write it.
    """
    features = F.normalize(torch.randn(_CLASSES, model.config.embed_dim), dim=1)
    _write(
        ImageGraph(model),
        (torch.rand(_IMAGES), features, model.similarity_scale().detach()),
        image_path,
        inputs=["images", "text_features", "logit_scale"],
        outputs=["mask_logits", "class_probabilities"],
    )
    length = min(_TEXTS[1], model.config.text.context_length)
    _write(
        TextGraph(model),
        (torch.arange(1, 1 + _TEXTS[0] * length).reshape(_TEXTS[0], length),),
        text_path,
        inputs=["token_ids"],
        outputs=["text_features"],
        axes=_TEXT_AXES,
    )


def write_class_graph(student: Student, path: Path) -> None:
    """Write the graph of a student.

    Args:
        student: on the CPU, in eval mode.
        path: file of the graph.

    Raises:
        SsegError: torch cannot write it.
    """
    _write(ClassGraph(student), (torch.rand(_IMAGES),), path, inputs=["images"], outputs=["logits"])


def _write(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, dict[int, str]] = _AXES,
) -> None:
    try:
        with torch.no_grad(), _silence(), traceable():
            torch.onnx.export(
                graph.eval(),
                example,
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: axes[name] for name in (*inputs, *outputs) if name in axes},
            )
    except Exception as error:  # of any kind, from deep inside of torch
        reason = printable(next(iter(str(error).splitlines()), type(error).__name__), 200)
        raise SsegError(
            f"torch {torch.__version__} cannot write this network as ONNX: {reason}",
            "Another backbone may do: Swin, ResNet, ConvNeXt and plain ViTs are known to.",
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's notes for its developers off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _without_stdout():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_stdout() -> Iterator[None]:
    """Lead standard output away: where torch's C++ fails, it prints all of the graph there."""
    sys.stdout.flush()
    kept = os.dup(1)
    away = os.open(os.devnull, os.O_WRONLY)
    os.dup2(away, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(away)
