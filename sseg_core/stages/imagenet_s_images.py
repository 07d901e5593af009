"""The images of ImageNet-S, which are the user's: found in ImageNet, and put beside the labels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.tracking import Progress

_VALIDATION = "validation"


def missing_images(root: Path) -> list[Path]:
    """Return the places of the images of ImageNet-S that are not there yet."""
    images = []
    for labels in sorted(root.glob(f"ImageNetS*/{_VALIDATION}-segmentation/*/*.png")):
        home = labels.parents[2]
        images.append(home / _VALIDATION / labels.parent.name / f"{labels.stem}.JPEG")
    return [image for image in images if not image.exists()]


def place_images(wanted: Sequence[Path], imagenet: Path, progress: Progress) -> None:
    """Link, or else copy, the images of ImageNet that the label images belong to.

    ImageNet's validation images lie in one folder, or in one for each class; ImageNet-S has merged
    some classes. They are found by their own names, which are unique.

    Raises:
        DataError: images are missing.
    """
    progress.start("place", len(wanted), "images")
    places = {path.name: path for path in imagenet.rglob("ILSVRC2012_val_*.JPEG")}
    missing = [image.name for image in wanted if image.name not in places]
    if missing:
        raise DataError(
            f"{printable(imagenet, None)} lacks {len(missing):,} of {len(wanted):,} images, for "
            f"example {printable(missing[0])}.",
            "Give the folder with the validation images of ImageNet (ILSVRC2012_val_*.JPEG).",
        )
    for image in wanted:
        image.parent.mkdir(parents=True, exist_ok=True)
        partial = image.with_name(f"{image.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(places[image.name], partial)
        except OSError:  # of another file system, or one without links
            shutil.copyfile(places[image.name], partial)
        partial.replace(image)
        progress.advance()
