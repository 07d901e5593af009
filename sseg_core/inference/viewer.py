"""One self-contained page of many segmentations: point at a region, and it tells its class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.errors import printable
from sseg_core.inference.page_pictures import packed_labels, shrunk
from sseg_core.inference.render import class_colors
from sseg_core.inference.segmentation import Segmentation
from sseg_core.page import data_uri, write_page
from sseg_core.structures import BACKGROUND

_LONG_SIDE = 1280  # of a photo in the page, in pixels; larger ones are made smaller
_THUMB_SIDE = 144  # of the small pictures, which a screen of double density shows at 72
_QUALITY = 84  # of JPEG, which is a fifth larger than WebP here and written in a tenth of the time
_THUMB_TINT = 0.6  # opacity of the classes in the small pictures
_GREY = "#9aa0aa"  # stands for background, which keeps the photo's own colours


def viewer_card(name: str, segmentation: Segmentation) -> str:
    """Return all that the page needs of an image, as one line of JSON.

    Args:
        name: of the image, such as its path.
        segmentation: of the image; pixel by pixel probabilities are not kept.
    """
    names = segmentation.class_names
    colors = _palette(names)
    legend = _legend(segmentation, colors)
    photo, labels = shrunk(segmentation.image, segmentation.label_map, _LONG_SIDE)
    folder, title = _split(printable(name, limit=None))
    height, width = segmentation.label_map.shape
    return json.dumps(
        {
            "head": {
                "title": title,
                "folder": folder,
                "width": width,
                "height": height,
                "thumb": _thumb(photo, labels, colors),
                "legend": legend,
            },
            "body": {
                "photo": data_uri(photo, "JPEG", quality=_QUALITY, optimize=True),
                "width": photo.width,
                "height": photo.height,
                "bytes": 1 if len(legend) <= 256 else 2,
                "labels": packed_labels(_places(labels, legend, len(names))),
            },
        }
    )


def write_viewer(
    stream: TextIO,
    cards: Iterable[str],
    *,
    model: str,
    class_names: Sequence[str],
    total: int,
) -> None:
    """Write the page; of the cards, one at a time is held in memory.

    Args:
        stream: takes the page, in UTF-8.
        cards: of `viewer_card`, in the order of the images.
        model: what segmented them.
        class_names: that were asked for, in the order of the segmentations'.
        total: how many images were segmented; the page says so where it has fewer cards.
    """
    write_page(
        stream,
        "inference/viewer.html.j2",
        cards=map(json.loads, cards),
        model=printable(model, limit=None),
        asked=[printable(name, limit=None) for name in class_names],
        total=total,
    )


@lru_cache(maxsize=2)
def _palette(names: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """The colour of each class, [C, 3]: for thousands of classes it takes longer than the rest."""
    return class_colors(names)


def _legend(segmentation: Segmentation, colors: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What the image shows, largest area first; background, if there is any, is the last."""
    shares, means = segmentation.shares, segmentation.mean_probability
    found: list[dict[str, Any]] = [
        {
            "index": index,
            "name": printable(name, limit=None),
            "color": f"#{bytes(colors[index]).hex()}",
            "share": shares[name],
            "probability": means[name],
        }
        for index, name in enumerate(segmentation.class_names)
        if shares[name] > 0
    ]
    found.sort(key=lambda entry: -entry["share"])
    rest = float((segmentation.label_map == BACKGROUND).mean())
    if rest > 0:
        found.append(
            {
                "index": BACKGROUND,
                "name": "background",
                "color": _GREY,
                "share": rest,
                "probability": None,
            }
        )
    return found


def _places(
    labels: npt.NDArray[np.int16], legend: Sequence[dict[str, Any]], num_classes: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Return the label map with the places of the labels in the legend instead of them."""
    places = np.zeros(num_classes + 1, np.uint16)
    for place, entry in enumerate(legend):
        places[entry["index"] - BACKGROUND] = place
    if len(legend) <= 256:
        return places.astype(np.uint8)[labels - BACKGROUND]
    return places[labels - BACKGROUND]


def _thumb(photo: Image.Image, labels: npt.NDArray[np.int16], colors: npt.NDArray[np.uint8]) -> str:
    """Return a small picture with the classes over it."""
    size = [max(1, round(side * min(1, _THUMB_SIDE / max(photo.size)))) for side in photo.size]
    small = photo.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    columns = (2 * np.arange(size[0]) + 1) * photo.width // (2 * size[0])
    rows = (2 * np.arange(size[1]) + 1) * photo.height // (2 * size[1])
    few = labels[rows[:, None], columns]
    tint = np.where((few == BACKGROUND)[..., None], np.asarray(small), colors[few])
    tinted = Image.blend(small, Image.fromarray(tint), _THUMB_TINT)
    return data_uri(tinted, "JPEG", quality=76, optimize=True)


def _split(path: str) -> tuple[str, str]:
    """Return folder and name, of a path or an address."""
    cut = max(path.rfind("/"), path.rfind("\\")) + 1
    return (path[:cut], path[cut:]) if cut < len(path) else ("", path)
