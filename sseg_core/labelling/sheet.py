"""Some of the labelled images on one sheet, to look at before a student learns from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.data.label_shards import LabelEntry, read_label_index
from sseg_core.evaluation.report.contact_sheet import Sample, contact_sheet, draw_labels


def label_sheet(
    indices: Sequence[Path],
    image: Callable[[str], RGBImage],
    class_names: Sequence[str],
    count: int,
) -> Image.Image | None:
    """Draw photo, labels and confidence of images that are spread evenly over all labelled ones.

    Args:
        indices: of all shards, in order.
        image: returns the image of a key.
        class_names: of the labels.
        count: images to draw, at least 1.

    Returns:
        RGB; None where none of these images can be read any more.
    """
    entries = read_label_index(indices)
    count = min(count, len(entries))
    # From the middle of as many equal parts: the first and last images are no better than others.
    chosen = [entries[(2 * part + 1) * len(entries) // (2 * count)] for part in range(count)]
    samples = list(_drawn(chosen, image, class_names))
    return contact_sheet(samples, class_names) if samples else None


def _drawn(
    entries: Sequence[LabelEntry], image: Callable[[str], RGBImage], class_names: Sequence[str]
) -> Iterator[Sample]:
    for entry in entries:
        with suppress(ImageError):  # it was there when it was labelled; the labels stay
            pixels = image(entry.key)
            yield draw_labels(
                entry.key, pixels, entry.read(0.0), entry.read_confidence(), class_names
            )
