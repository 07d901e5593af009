"""The report of `sseg demo`: one HTML file with everything in it, readable anywhere offline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sseg_core.page import data_uri, render_page

_CURVES = {
    "loss": "total loss",
    "contrastive": "contrastive",
    "dice": "dice",
    "focal": "focal",
}
"""Fields of `metrics.jsonl` that are drawn, with their titles."""

_CURVE_WIDTH, _CURVE_HEIGHT, _CURVE_POINTS = 300, 120, 300


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One held-out scene.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        pseudo_mask: [h, w] segment numbers, on any grid.
        prediction: [H, W] index into the report's class names, -1 for none.
        truth: [H, W] likewise.
        caption: a sentence about the scene.
    """

    image: NDArray[np.uint8]
    pseudo_mask: NDArray[np.integer]
    prediction: NDArray[np.integer]
    truth: NDArray[np.integer]
    caption: str


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the report shows. Scores are in percent.

    Attributes:
        class_names: all classes, in the order of the label maps.
        class_colors: [C, 3] uint8 RGB that label maps are shown in; -1 is shown in black.
        miou: mean IoU over all classes on the held-out scenes.
        miou_objects: mean IoU over the objects only.
        pixel_accuracy: share of the pixels with the right class.
        oracle_miou: mean IoU of the pseudo-masks if each took its best class.
        iou: IoU by class name, None where the class does not occur.
        train_images: scenes that were learned from.
        val_images: held-out scenes that were scored.
        seconds: time of the whole demo.
        images_per_second: training throughput.
        metrics: records of `metrics.jsonl`.
        gallery: held-out scenes to show.
        commands: the commands that the demo stands for, in order.
        next_commands: the commands that segment one's own photos.
        version: of the program.
    """

    class_names: tuple[str, ...]
    class_colors: NDArray[np.uint8]
    miou: float
    miou_objects: float
    pixel_accuracy: float
    oracle_miou: float
    iou: Mapping[str, float | None]
    train_images: int
    val_images: int
    seconds: float
    images_per_second: float
    metrics: Sequence[Mapping[str, float]]
    gallery: Sequence[GalleryRow]
    commands: Sequence[str]
    next_commands: Sequence[str]
    version: str


@dataclass(frozen=True)
class _Curve:
    title: str
    points: str  # of an SVG polyline
    first: float
    last: float
    top: float
    last_step: int


@dataclass(frozen=True)
class _Figure:
    title: str
    source: str
    is_map: bool


def write_report(path: Path, report: DemoReport) -> None:
    """Write the report as one self-contained HTML file, without scripts or outside links."""
    palette = np.vstack([report.class_colors, np.zeros((1, 3), np.uint8)])
    html = render_page(
        "evaluation/report/demo.html.j2",
        report=report,
        colors={name: f"#{bytes(palette[i]).hex()}" for i, name in enumerate(report.class_names)},
        curves=[curve for name in _CURVES if (curve := _curve(report.metrics, name))],
        curve_size=(_CURVE_WIDTH, _CURVE_HEIGHT),
        gallery=[(row, _figures(row, palette), _agreement(row)) for row in report.gallery],
        duration=_duration(report.seconds),
    )
    path.write_text(html, encoding="utf-8")


def _curve(metrics: Sequence[Mapping[str, float]], name: str) -> _Curve | None:
    """Turn one field of the metrics into an SVG polyline; None with fewer than two values."""
    records = [
        (float(record["step"]), float(record[name]))
        for record in metrics
        if "step" in record and math.isfinite(record.get(name, math.nan))
    ]
    if len(records) < 2:
        return None
    stride = math.ceil(len(records) / _CURVE_POINTS)
    shown = [*records[:-1:stride], records[-1]]
    begin, end = shown[0][0], shown[-1][0]
    top = max(1e-9, *(value for _, value in shown))
    points = " ".join(
        f"{_CURVE_WIDTH * (step - begin) / max(end - begin, 1):.1f},"
        f"{_CURVE_HEIGHT * (1 - max(value, 0.0) / top):.1f}"
        for step, value in shown
    )
    return _Curve(_CURVES[name], points, records[0][1], records[-1][1], top, int(end))


def _figures(row: GalleryRow, palette: NDArray[np.uint8]) -> list[_Figure]:
    pictures = {
        "pseudo-mask": _segments(row),
        "prediction": palette[row.prediction],  # -1 takes the last colour, black
        "truth": palette[row.truth],
    }
    maps = [
        _Figure(name, data_uri(Image.fromarray(array), "PNG"), is_map=True)
        for name, array in pictures.items()
    ]
    photo = data_uri(Image.fromarray(row.image), "WEBP", quality=88)
    return [_Figure("scene", photo, is_map=False), *maps]


def _segments(row: GalleryRow) -> NDArray[np.uint8]:
    """The pseudo-masks, which have no classes: each in its mean colour, white lines between."""
    height, width = row.image.shape[:2]
    grid_height, grid_width = row.pseudo_mask.shape
    rows = np.arange(height) * grid_height // height
    columns = np.arange(width) * grid_width // width
    segments = row.pseudo_mask[rows][:, columns]
    picture = np.empty_like(row.image)
    for segment in np.unique(segments):
        picture[segments == segment] = row.image[segments == segment].mean(axis=0).round()
    picture[1:][segments[1:] != segments[:-1]] = 255
    picture[:, 1:][segments[:, 1:] != segments[:, :-1]] = 255
    return picture


def _agreement(row: GalleryRow) -> float:
    return 100 * float((row.prediction == row.truth).mean())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
