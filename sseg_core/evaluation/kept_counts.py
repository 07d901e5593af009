"""What an interrupted evaluation had counted, so that the same command goes on from there."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.evaluator import Evaluation
from sseg_core.evaluation.metrics.confusion import ConfusionMatrix
from sseg_core.evaluation.metrics.per_image import PerImage
from sseg_core.evaluation.metrics.sweep import ThresholdSweep

EVERY_S = 20.0
"""Seconds between two writes: at most so much work is done again."""


class KeptCounts:
    """A file of counts, written now and then.

    Images that could not be read are not in it: they are tried again.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = time.monotonic()

    def load(self, labels: tuple[str, ...]) -> Evaluation | None:
        """Return the counts, None where there are none that can be used.

        Args:
            labels: what is scored.
        """
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                return _from_arrays(dict(arrays), labels)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def __call__(self, evaluation: Evaluation) -> None:
        """Write the counts if it is time."""
        if time.monotonic() - self._written < EVERY_S:
            return
        partial = self._path.with_suffix(".partial")
        with suppress(OSError):  # a full disk is told of where the scores are written
            with partial.open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, **_as_arrays(evaluation))
            partial.replace(self._path)
        self._written = time.monotonic()


def _as_arrays(evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {
        "confusion": evaluation.confusion.counts,
        "confident": np.array(evaluation.confident),
        "seconds": np.array(evaluation.seconds),
    }
    arrays |= {f"images.{k}": v for k, v in evaluation.per_image.as_arrays().items()}
    if evaluation.sweep is not None:
        arrays |= {f"sweep.{k}": v for k, v in evaluation.sweep.as_arrays().items()}
    return arrays


def _from_arrays(arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Evaluation:
    confusion = ConfusionMatrix(len(labels))
    if arrays["confusion"].shape != confusion.counts.shape:
        raise ValueError("other labels")
    confusion.counts += arrays["confusion"]
    images, sweep = (
        {k.removeprefix(part): v for k, v in arrays.items() if k.startswith(part)}
        for part in ("images.", "sweep.")
    )
    return Evaluation(
        labels,
        confusion,
        PerImage.from_arrays(images),
        sweep=ThresholdSweep.from_arrays(sweep) if sweep else None,
        confident=bool(arrays["confident"]),
        seconds=float(arrays["seconds"]),
    )
