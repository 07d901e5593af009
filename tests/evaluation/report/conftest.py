"""A report with strange class names, and a parser of pages."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sseg_core.evaluation.examples import BACKGROUND, VOID
from sseg_core.evaluation.report.gallery import GalleryImage
from sseg_core.evaluation.report.scores import ScoresReport

_NEVER_CLOSED = {"meta", "img", "line", "polyline", "br", "link", "input"}

CLASSES = (
    "cat",
    "<script>alert(1)</script>",
    '"onmouseover="alert(2)',
    "dog \u202egod\u202c {{ 7 * 7 }}",
    "long " + "name " * 60,
    "never seen",
)


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _NEVER_CLOSED:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def parse() -> Callable[[Path], Page]:
    """Return a function that reads a page."""
    return lambda path: Page(path.read_text(encoding="utf-8"))


def _image(number: int, group: Literal["best", "worst"]) -> GalleryImage:
    """A left half of class 0, a right half of class `number`; the prediction is 8 pixels off."""
    pixels = np.random.default_rng(number).integers(0, 256, (320, 400, 3), dtype=np.uint8)
    truth = np.full((320, 400), BACKGROUND, np.int16)
    truth[40:200, :200] = 0
    truth[40:200, 200:] = number
    truth[:8] = VOID
    prediction = np.roll(np.where(truth == VOID, np.int16(BACKGROUND), truth), 8, axis=1)
    return GalleryImage(f"photo-{number}", pixels, truth, prediction, 70.0 + number, 90.0, group)


@pytest.fixture
def report() -> ScoresReport:
    labels = ("background", *CLASSES)
    confusion = np.zeros((7, 8), np.int64)
    np.fill_diagonal(confusion, [900, 500, 400, 300, 200, 100, 0])
    confusion[1, 4] = 250
    confusion[2, 7] = 100
    iou = dict(zip(labels, [88.5, 60.25, 50.0, 40.0, 12.34, 5.0, None], strict=True))
    stats: dict[str, Any] = {
        "benchmark": "voc2012",
        "split": "val",
        "source": "the class PNGs",
        "model": "clip:<ViT>",
        "notes": ["learned from <b>pairs</b>"],
        "images": 100,
        "skipped": {"damaged <png>": 2},
        "classes_scored": 6,
        "miou": 42.68,
        "miou_interval": [39.11, 46.25],
        "miou_objects": 33.52,
        "constant_miou": 3.49,
        "mean_accuracy": 55.5,
        "frequency_weighted_iou": 61.27,
        "pixel_accuracy": 77.77,
        "boundary_f": 31.41,
        "iou": iou,
        "accuracy": {label: None if value is None else value + 5 for label, value in iou.items()},
        "images_per_second": 3.14,
        "peak_memory_mb": 2048.0,
        "protocol": {
            "name": "sclip",
            "version": 1,
            "short_side": 336,
            "templates": [f"a photo of a {{}} <{index}>" for index in range(5)],
            "threshold": 0.25,
            "tuned_on_split": True,
            "min_share": None,
            "changed": ["threshold"],
        },
        "sweep": {
            "thresholds": [index / 10 for index in range(11)],
            "miou": [10.0, 20, 30, 42, 40, 30, 20, 10, 5, 2, None],
            "best_threshold": 0.3,
            "best_miou": 42.0,
        },
    }
    return ScoresReport(
        stats=stats,
        labels=labels,
        class_names=CLASSES,
        confusion=confusion,
        gallery=[_image(1, "worst"), _image(2, "worst"), _image(3, "best")],
        lineage=[{"kind": "checkpoint", "name": "run", "version": 3, "digest": "sha256:0a1b"}],
        command="sseg eval --model 'clip:<ViT>' --report",
        version="0.1.0",
    )
