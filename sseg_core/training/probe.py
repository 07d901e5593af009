"""A quick look at held-out images while a model learns: a score, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import nn

from sseg_core.config import EvalConfig, ProbeConfig, TrainConfig
from sseg_core.evaluation.benchmarks import open_benchmark
from sseg_core.evaluation.evaluator import evaluate, segmenter_predictor
from sseg_core.evaluation.protocol import segmentation_protocol
from sseg_core.inference.render import overlay
from sseg_core.inference.segmenter import Segmenter, default_image_size
from sseg_core.models.build import Model
from sseg_core.text.tokenizer import Tokenizer

_HEIGHT = 320  # of a row of pictures, in pixels
_GAP = 8


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

    def score(self, model: Model) -> dict[str, float]:
        """Return `probe_miou` and `probe_accuracy` in percent, 0 where nothing counts."""
        exclude = self._protocol.background == "exclude"
        with _undisturbed(model):
            predict = segmenter_predictor(self._segmenter(model), self._protocol, self._benchmark)
            result = evaluate(
                self._benchmark,
                predict,
                exclude_background=exclude,
                batch_size=self._eval.batch_size,
            )
        scores = result.confusion.compute()
        values = {"probe_miou": scores.miou, "probe_accuracy": scores.pixel_accuracy}
        return {name: round(float(np.nan_to_num(value)), 2) for name, value in values.items()}

    def pictures(self, model: Model) -> Image.Image:
        """Return the first images in rows: the photo, the prediction over it, the truth over it."""
        names = self._benchmark.class_names
        first = int(self._benchmark.has_background)
        rows = []
        with _undisturbed(model):
            segmenter = self._segmenter(model)
            for example in islice(self._benchmark, self._pictures):
                found = segmenter.segment(
                    example.image,
                    names,
                    threshold=self._protocol.threshold,
                    image_size=self._protocol.short_side,
                )
                truth = example.truth.astype(np.int16) - first
                truth[example.truth >= first + len(names)] = -1
                drawn = [
                    overlay(example.image, labels, names) for labels in (found.label_map, truth)
                ]
                rows.append([Image.fromarray(example.image), *drawn])
        return _sheet(rows)

    def _segmenter(self, model: Model) -> Segmenter:
        tokenizer = Tokenizer(self._text.context_length)
        return Segmenter(model, tokenizer, self._image_size, self._text.template)


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Put the pictures on one sheet, all of them equally wide; a legend makes one taller."""
    width = max(picture.width * _HEIGHT // picture.height for row in rows for picture in row[:1])
    scaled = [
        [picture.resize((width, picture.height * width // picture.width)) for picture in row]
        for row in rows
    ]
    heights = [max(picture.height for picture in row) for row in scaled]
    columns = len(rows[0])
    size = (columns * (width + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1))
    sheet = Image.new("RGB", size, "white")
    top = _GAP
    for row, height in zip(scaled, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return sheet


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
