"""A table of what covers how much of each photo of a folder, looked at in batches.

python examples/areas_of_a_folder.py photos/ names.txt > areas.csv

names.txt has a class on each line, "tv=television|tv monitor" where it has synonyms.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sseg_core import Segmenter

BATCH = 8  # photos of one size go through the network together


def main() -> None:
    """Print a line of percentages for each photo."""
    folder, names = sys.argv[1:]
    segmenter = Segmenter.load()
    vocabulary = segmenter.vocabulary(f"@{names}")
    table = csv.writer(sys.stdout)
    table.writerow(["photo", *vocabulary.class_names, "background"])
    photos = sorted(path for path in Path(folder).iterdir() if path.suffix in {".jpg", ".png"})
    for first in range(0, len(photos), BATCH):
        paths = photos[first : first + BATCH]
        images = [pixels(path) for path in paths]
        for path, found in zip(paths, segmenter.segment_batch(images, vocabulary), strict=True):
            shares = [100 * share for share in found.shares.values()]
            table.writerow([path.name, *(f"{s:.1f}" for s in (*shares, 100 - sum(shares)))])


def pixels(path: Path) -> np.ndarray:
    """Return [H, W, 3] uint8 RGB, upright."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


if __name__ == "__main__":
    main()
