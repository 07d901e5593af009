"""Pseudo-masks to look at: a contact sheet, and a page that shows it with the facts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sseg_core.data.images import RGBImage, decode_image, image_size
from sseg_core.data.shards import Sample, read_shard_with_masks
from sseg_core.errors import printable
from sseg_core.page import data_uri, render_page
from sseg_core.pseudomask.label_png import label_colors
from sseg_core.structures import IGNORE_LABEL, MAX_PIXELS

_SIDE = 224  # of a picture, its long side in pixels
_GAP = 6  # between the pictures of a sample
_MARGIN = 18  # between samples, and around them
_TEXT_HEIGHT = 20
_PAPER, _INK = (250, 250, 248), (90, 94, 102)
_OPACITY = 0.5  # of the mask over the image


@dataclass(frozen=True, eq=False)
class PreviewSample:
    """One image with its mask.

    Attributes:
        key: of the sample.
        image: [H, W, 3] uint8 RGB.
        label_map: [h, w] uint8 segment ids of the whole image, on any grid.
        caption: the first one.
    """

    key: str
    image: RGBImage
    label_map: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """What the page says about a masks artifact.

    Attributes:
        name: of the artifact.
        features: what was clustered.
        clustering: how.
        masks: K, the largest number of segments in an image.
        images: how many have masks.
        skipped: samples that were left out, by reason.
        segments_per_image: mean number of segments.
        images_per_second: from tar to tar; 0 if no shard was left to make.
        bytes_per_mask: on disk.
        shards: how many.
        version: of the program.
    """

    name: str
    features: str
    clustering: str
    masks: int
    images: int
    skipped: Mapping[str, int]
    segments_per_image: float
    images_per_second: float
    bytes_per_mask: float
    shards: int
    version: str


def preview_samples(
    shards: Iterable[tuple[Path | str, Path | str]], count: int
) -> list[PreviewSample]:
    """Return the first `count` samples that have a mask, their images made small.

    Args:
        shards: paths or URLs of (pairs shard, masks shard); no more are read than needed.
        count: fewer are returned if there are no more.

    Raises:
        DataError: a file is missing.
    """
    joined = chain.from_iterable(read_shard_with_masks(*paths) for paths in shards)
    return [_small(sample, mask) for sample, mask in islice(joined, count)]


def build_preview(samples: Sequence[PreviewSample], columns: int = 2) -> Image.Image:
    """Draw the contact sheet: image, mask, and mask over image, `columns` samples side by side.

    Args:
        samples: at least one.
        columns: samples in a row of the sheet.

    Returns:
        RGB; the keys are written below the samples.
    """
    strips = [_strip(sample) for sample in samples]
    columns = min(columns, len(strips))
    rows = [strips[begin : begin + columns] for begin in range(0, len(strips), columns)]
    heights = [max(strip.height for strip in row) for row in rows]
    step = max(strip.width for strip in strips) + _MARGIN
    size = (columns * step + _MARGIN, sum(heights) + _MARGIN * (len(rows) + 1))
    sheet = Image.new("RGB", size, _PAPER)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, strip in enumerate(row):
            sheet.paste(strip, (_MARGIN + column * step, top))
        top += height + _MARGIN
    return sheet


def render_report(samples: Sequence[PreviewSample], facts: MaskFacts) -> str:
    """Return one self-contained HTML page with the facts and the pictures of the contact sheet.

    It has no scripts and no outside links, and shows the pictures two or one to a row, as the
    window allows. Keys, captions and names are shown as plain text whatever they hold.
    """
    return render_page(
        "pseudomask/preview.html.j2",
        facts=facts,
        skipped=sum(facts.skipped.values()),
        gallery=[(sample, _sources(sample)) for sample in samples],
    )


def _small(sample: Sample, mask: bytes) -> PreviewSample:
    height, width = image_size(sample.image, max_pixels=MAX_PIXELS)
    shrink = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    image = decode_image(sample.image, max_pixels=MAX_PIXELS, size=size)
    with Image.open(io.BytesIO(mask)) as png:
        label_map = np.asarray(png)
    return PreviewSample(sample.key, image, label_map, sample.captions[0])


def _sources(sample: PreviewSample) -> dict[str, str]:
    """The pictures as data URIs; the mask is a dot per token, enlarged by the browser."""
    photo = Image.fromarray(sample.image)
    return {
        "image": data_uri(photo, "WEBP", quality=88),
        "mask": data_uri(Image.fromarray(label_colors()[sample.label_map]), "PNG"),
        "mask over image": data_uri(_overlay(photo, sample), "WEBP", quality=88),
    }


def _strip(sample: PreviewSample) -> Image.Image:
    """The three pictures of a sample side by side, with its key below."""
    height, width = sample.image.shape[:2]
    scale = _SIDE / max(height, width)
    photo = Image.fromarray(sample.image).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS
    )
    mask = Image.fromarray(label_colors()[_stretched(sample.label_map, photo)])
    strip = Image.new("RGB", (3 * _SIDE + 2 * _GAP, photo.height + _TEXT_HEIGHT), _PAPER)
    for place, picture in enumerate((photo, mask, _overlay(photo, sample))):
        strip.paste(picture, (place * (_SIDE + _GAP), 0))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(strip).text((0, photo.height + 3), printable(sample.key), _INK, font)
    return strip


def _overlay(photo: Image.Image, sample: PreviewSample) -> Image.Image:
    """Blend the colours of the mask into the photo, with white lines between the segments."""
    labels = _stretched(sample.label_map, photo)
    pixels = np.array(photo)
    known = labels != IGNORE_LABEL
    tint = pixels.copy()
    tint[known] = label_colors()[labels[known]]
    blended = np.array(Image.blend(photo, Image.fromarray(tint), _OPACITY))
    blended[1:][labels[1:] != labels[:-1]] = 255
    blended[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    return Image.fromarray(blended)


def _stretched(label_map: NDArray[np.uint8], photo: Image.Image) -> NDArray[np.uint8]:
    image = Image.fromarray(label_map).resize(photo.size, Image.Resampling.NEAREST)
    return np.asarray(image)
