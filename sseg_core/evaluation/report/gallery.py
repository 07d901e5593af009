"""Images with several label maps over them, to look at in a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.data.images import RGBImage
from sseg_core.evaluation.examples import BACKGROUND, VOID, LabelMap
from sseg_core.evaluation.report.wording import number, plain
from sseg_core.inference.page_pictures import packed_labels, shrunk
from sseg_core.inference.render import class_colors
from sseg_core.page import data_uri

_LONG_SIDE = 640  # of a picture in the page, in pixels; larger ones are made smaller
_SMALL = 320  # smaller pictures are enlarged by a whole factor, to at most this long side
_QUALITY = 80  # of the WebP photos: about 45 kB each


@dataclass(frozen=True, eq=False)
class GalleryImage:
    """One image of a benchmark with its truth and what a model made of it.

    Attributes:
        key: of the image.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] class index, `BACKGROUND` or `VOID`.
        prediction: [H, W] class index or `BACKGROUND`.
        miou: of this image alone, in percent; None without a scored pixel.
        pixel_accuracy: likewise.
        group: the end of the ranking that it was taken from.
    """

    key: str
    image: RGBImage
    truth: LabelMap
    prediction: LabelMap
    miou: float | None
    pixel_accuracy: float | None
    group: Literal["best", "worst"]


@dataclass(frozen=True)
class Chip:
    """A label of an image's legend.

    Attributes:
        label: class index or `BACKGROUND`.
        name: of the class.
        color: `#rrggbb`.
        iou: of the class in this image in percent, for each label map but the first.
    """

    label: int
    name: str
    color: str
    iou: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """What the page needs to show one image.

    Attributes:
        key: of the image.
        facts: a few words about it.
        photo: data URI.
        width: of photo and label maps, in pixels.
        height: likewise.
        titles: of the N label maps, the truth first.
        maps: base64 of zlib of [N, H, W] uint16, little-endian: label - `VOID`.
        chips: the legend, largest area first.
        voids: some pixels of the truth do not count.
    """

    key: str
    facts: str
    photo: str
    width: int
    height: int
    titles: tuple[str, ...]
    maps: str
    chips: tuple[Chip, ...]
    voids: bool


def gallery_card(
    key: str,
    image: RGBImage,
    label_maps: Mapping[str, LabelMap],
    class_names: Sequence[str],
    facts: str,
) -> Card:
    """Prepare one image for the page.

    Args:
        key: of the image.
        image: [H, W, 3] uint8 RGB.
        label_maps: by title, the truth first; [H, W] class index, `BACKGROUND` or `VOID`.
        class_names: of all classes; they give the colours.
        facts: a few words about the image.
    """
    maps = np.stack(list(label_maps.values()))
    assert maps.shape[1:] == image.shape[:2], (maps.shape, image.shape)
    photo, shown = _fitted(image, maps)
    return Card(
        key=plain(key),
        facts=facts,
        photo=data_uri(photo, "WEBP", quality=_QUALITY),
        width=photo.width,
        height=photo.height,
        titles=tuple(map(plain, label_maps)),
        maps=packed_labels((shown.astype(np.int32) - VOID).astype(np.uint16)),
        chips=tuple(_legend(maps, class_names)),
        voids=bool((shown[0] == VOID).any()),
    )


def swatches(class_names: Sequence[str]) -> list[str]:
    """Return the colour of each class as `#rrggbb`, the one it has in every picture of sseg."""
    return [f"#{bytes(color).hex()}" for color in class_colors(class_names)]


def _legend(maps: npt.NDArray[np.int16], class_names: Sequence[str]) -> list[Chip]:
    values = np.maximum(maps, BACKGROUND).astype(np.int32) - BACKGROUND  # 0 for background
    counted = values[:, maps[0] != VOID]  # [N, pixels]
    size = len(class_names) + 1
    areas = np.stack([np.bincount(labels, minlength=size) for labels in counted])
    right = [np.bincount(row[row == counted[0]], minlength=size) for row in counted[1:]]
    colors = swatches(class_names)
    shown = [map_[labels != VOID] for map_, labels in zip(values, maps, strict=True)]
    present = np.unique(np.concatenate(shown))
    order = present[np.argsort(-areas[:, present].max(axis=0), kind="stable")]
    chips = []
    for value in order.tolist():
        unions = areas[0, value] + areas[1:, value] - [hits[value] for hits in right]
        iou = (
            number(100 * hits[value] / union if union else None, 0)
            for hits, union in zip(right, unions.tolist(), strict=True)
        )
        label = value + BACKGROUND
        name = "background" if label == BACKGROUND else plain(class_names[label])
        color = "#9aa0aa" if label == BACKGROUND else colors[label]
        chips.append(Chip(label, name, color, tuple(iou)))
    return chips


def _fitted(
    image: RGBImage, maps: npt.NDArray[np.int16]
) -> tuple[Image.Image, npt.NDArray[np.int16]]:
    """Return photo and label maps in the size in which the page holds them."""
    height, width = image.shape[:2]
    factor = max(1, _SMALL // max(height, width))
    if factor > 1:
        grown = image.repeat(factor, axis=0).repeat(factor, axis=1)
        return Image.fromarray(grown), maps.repeat(factor, axis=1).repeat(factor, axis=2)
    return shrunk(image, maps, _LONG_SIDE)
