"""Images that come more than once: as the same file, or as another one that looks the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sseg_core.data.fetch.outcomes import FETCHED, read_outcomes
from sseg_core.data.images import RGBImage

_BITS = 3  # that the looks of near duplicates differ in at most
_NEIGHBOURS = 16
_ROTATIONS = 8

Numbers = npt.NDArray[np.uint64]


def look_of(pixels: RGBImage) -> str:
    """Return 64 bits that tell an image's look: where it gets brighter, on a grid of 8 by 8.

    The difference hash of Krawetz (2013). Of a photo at 0.6 times its size and another quality, it
    differs in one bit on average and seldom in more than three; of other photos, in ten and more.

    Args:
        pixels: [H, W, 3] uint8.

    Returns:
        16 hexadecimal digits.
    """
    grey = Image.fromarray(pixels).convert("L")
    grid = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()


def count_duplicates(tables: Iterable[Path]) -> dict[str, int]:
    """Count the images that are there already when they come.

    Time and memory grow with the number of images (about 100 bytes each), not with its square.

    Args:
        tables: of the outcomes of all shards, in order.

    Returns:
        `exact`: files equal to an earlier one; `near`: others that look like an earlier one, as
        after another compression or in another size.
    """
    digests, looks = [_numbers([])], [_numbers([])]
    for table in tables:
        fetched = [outcome for outcome in read_outcomes(table) if outcome.outcome == FETCHED]
        digests.append(_numbers([outcome.sha256 for outcome in fetched]))
        looks.append(_numbers([outcome.look for outcome in fetched]))
    _, first = np.unique(np.concatenate(digests), return_index=True)
    all_looks = np.concatenate(looks)
    return {"exact": len(all_looks) - len(first), "near": _near(all_looks[np.sort(first)])}


def _near(looks: Numbers) -> int:
    """Count the looks that differ from an earlier one in at most `_BITS` bits.

    Each is compared with its neighbours in several sorted orders, each beginning at another bit:
    looks that differ in a few bits agree in the leading ones of some order. That finds nearly
    all of them without comparing all with all.
    """
    is_near = np.zeros(len(looks), bool)
    for rotation in range(_ROTATIONS):
        shift = np.uint64(rotation * 64 // _ROTATIONS)
        rotated = (looks << shift) | (looks >> (np.uint64(64) - shift)) if shift else looks
        order = np.argsort(rotated, kind="stable")
        for distance in range(1, min(_NEIGHBOURS + 1, len(looks))):
            one, other = order[:-distance], order[distance:]
            alike = np.bitwise_count(looks[one] ^ looks[other]) <= _BITS
            is_near[np.maximum(one[alike], other[alike])] = True
    return int(is_near.sum())


def _numbers(digits: list[str]) -> Numbers:
    return np.array([int(text, 16) for text in digits], np.uint64)
