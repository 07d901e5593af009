"""A quick look at held-out images while a model learns: a score, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import nn

from sseg_core.config import EvalConfig, ProbeConfig, TrainConfig
from sseg_core.evaluation.benchmarks import open_benchmark
from sseg_core.evaluation.evaluator import evaluate, segmenter_predictor
from sseg_core.evaluation.protocol import segmentation_protocol
from sseg_core.inference.segmenter import Segmenter, default_image_size
from sseg_core.models.build import Model
from sseg_core.text.tokenizer import Tokenizer
from sseg_core.tracking import SILENT, Progress
from sseg_core.training.contact_sheet import Sample, contact_sheet, draw_sample


class Probe:
    """Held-out images of a benchmark, scored and drawn as `sseg eval` would.

    The model is left as it was: its mode, its statistics and all generators.

    Args:
        config: which images.
        train_config: of the model: its input size, its texts.

    Raises:
        ConfigError: no such benchmark, or no root for one that needs it.
        DataError: its files are not where they should be.
    """

    def __init__(self, config: ProbeConfig, train_config: TrainConfig) -> None:
        self._eval = EvalConfig(
            benchmark=config.benchmark, root=config.root, split=config.split, limit=config.limit
        )
        self._benchmark = open_benchmark(self._eval)
        self._pictures = config.pictures
        self._image_size = default_image_size(train_config)
        self._text = train_config.model.text
        self._protocol = segmentation_protocol(
            self._eval,
            self._benchmark,
            image_size=self._image_size,
            template=self._text.template,
        )

    def score(self, model: Model, progress: Progress = SILENT) -> dict[str, float]:
        """Return `probe_miou` and `probe_accuracy` in percent, 0 where nothing counts."""
        exclude = self._protocol.background == "exclude"
        with _undisturbed(model):
            predict = segmenter_predictor(self._segmenter(model), self._protocol, self._benchmark)
            result = evaluate(
                self._benchmark,
                predict,
                exclude_background=exclude,
                batch_size=self._eval.batch_size,
                task="probe",
                progress=progress,
            )
        scores = result.confusion.compute()
        values = {"probe_miou": scores.miou, "probe_accuracy": scores.pixel_accuracy}
        return {name: round(float(np.nan_to_num(value)), 2) for name, value in values.items()}

    def pictures(self, model: Model) -> Image.Image:
        """Return one sheet of the first images: each photo, what the model sees, and the truth.

        Raises:
            DataError: none of them can be read.
        """
        with _undisturbed(model):
            predict = segmenter_predictor(self._segmenter(model), self._protocol, self._benchmark)
            samples = [self._draw(example, predict) for example in self._first_readable()]
        if not samples:
            raise DataError(
                f"No image of {self._benchmark.name} could be read.", "Check its files."
            )
        return contact_sheet(samples, self._benchmark.class_names)

    def _first_readable(self) -> Iterator[Example]:
        for key in self._keys_to_draw:
            try:
                yield self._benchmark.load(key)
            except ImageError:
                continue  # the evaluator tells of it

    def _draw(self, example: Example, predict: Predictor) -> Sample:
        [labels] = predict([example])
        truth = example.truth.astype(np.int16)
        if self._benchmark.has_background:  # label 0, and to the drawing -1
            labels = labels - np.int16(1)
            truth[truth != IGNORE_LABEL] -= 1
        names = self._benchmark.class_names
        return draw_sample(example.key, example.image, labels, truth, names)

    def _segmenter(self, model: Model) -> Segmenter:
        tokenizer = Tokenizer(self._text.context_length)
        return Segmenter(model, tokenizer, self._image_size, self._text.template)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Give every module its mode back, and every generator its state."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training
