"""A quick look at held-out images while a model learns: a score, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from sseg_core.config import EvalConfig, ProbeConfig
from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.evaluator import evaluate, thresholded
from sseg_core.evaluation.examples import Benchmark, Example
from sseg_core.evaluation.protocol import SegmentationProtocol, segmentation_protocol
from sseg_core.evaluation.report.contact_sheet import Sample, contact_sheet, draw_sample
from sseg_core.evaluation.rivals.checkpoint import CheckpointRival
from sseg_core.evaluation.rivals.rival import Predictor, predictor
from sseg_core.inference.segmenter import Segmenter
from sseg_core.models.build import Model
from sseg_core.tracking import SILENT, Progress

AsSegmenter = Callable[[nn.Module], Segmenter]
"""Makes a segmenter of a network that may be in training."""


class Probe:
    """Held-out images of a benchmark, scored and drawn as `sseg eval` would.

    Images are read anew each time, for a benchmark may be larger than memory. The model is left as
    it was, its modes, its statistics and its temperature, and so are all random generators: a run
    learns the same with probes as without.

    Args:
        config: which images.
        as_segmenter: makes a segmenter of a model in training.

    Raises:
        ConfigError: no such benchmark, or no root for one that needs it.
        DataError: its files are not where they should be, or none can be read.
    """

    def __init__(self, config: ProbeConfig, as_segmenter: AsSegmenter) -> None:
        self._eval = EvalConfig(
            benchmark=config.benchmark,
            root=config.root,
            split=config.split,
            limit=max(config.limit, config.pictures),
        )
        self._benchmark = open_benchmark(self._eval)
        self._scored = replace(self._benchmark, keys=self._benchmark.keys[: config.limit])
        self._drawn = replace(self._benchmark, keys=self._benchmark.keys[: config.pictures])
        for benchmark in (self._scored, self._drawn):
            if next(_readable(benchmark), None) is None:
                raise DataError(f"No image of {benchmark.name} can be read.", "Check its files.")
        self._as_segmenter = as_segmenter
        self._protocol = segmentation_protocol(self._eval, self._benchmark)
        assert self._protocol.view is not None
        self._view = self._protocol.view

    def score(self, model: nn.Module, progress: Progress = SILENT) -> dict[str, float]:
        """Return `probe_miou` and `probe_accuracy` in percent, 0 where nothing counts.

        Raises:
            DataError: no image can be read any more.
        """
        with _undisturbed(model):
            predict, protocol = self._asked(model)
            result = evaluate(
                self._scored,
                predict,
                protocol.rule,
                batch_size=self._eval.batch_size,
                task="probe",
                progress=progress,
            )
        if not len(result.per_image):
            raise DataError(f"No image of {self._benchmark.name} can be read.", "Check its files.")
        scores = result.confusion.compute()
        values = {"probe_miou": scores.miou, "probe_accuracy": scores.pixel_accuracy}
        return {name: round(float(np.nan_to_num(value)), 2) for name, value in values.items()}

    def pictures(self, model: nn.Module) -> Image.Image:
        """Return one sheet of the first images: each photo, what the model sees, and the truth.

        Raises:
            DataError: no image can be read any more.
        """
        with _undisturbed(model):
            predict, protocol = self._asked(model)
            samples = [
                self._draw(example, predict, protocol.threshold)
                for example in _readable(self._drawn)
            ]
        if not samples:
            raise DataError(f"No image of {self._drawn.name} can be read.", "Check its files.")
        return contact_sheet(samples, self._drawn.class_names)

    def _asked(self, model: nn.Module) -> tuple[Predictor, SegmentationProtocol]:
        rival = CheckpointRival(self._as_segmenter(model), self._view)
        protocol = self._protocol.followed_by(rival)
        return predictor(rival, protocol.vocabulary), protocol

    def _draw(self, example: Example, predict: Predictor, threshold: float) -> Sample:
        [prediction] = predict([example])
        labels = thresholded(prediction, threshold)
        names = self._benchmark.class_names
        return draw_sample(example.key, example.image, labels, example.truth, names)


def _readable(benchmark: Benchmark) -> Iterator[Example]:
    for key in benchmark.keys:
        with suppress(ImageError):  # of which the evaluator tells
            yield benchmark.load(key)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Compute in full precision, and leave the model and the generators as they are."""
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    # A forward pass holds the temperature at its limit, and an average of the weights would
    # take another course from there.
    scale = getattr(model, "logit_scale", torch.empty(0)).detach().clone()
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        if isinstance(model, Model):
            with torch.no_grad():
                model.logit_scale.copy_(scale)
