"""Which labelled image comes when: one endless row that the seed decides.

Batch i of rank r of W takes the places from (i W + r) B on, B being the size of a batch. So the
processes together see what a single one would with batches of W B images, and any batch is found
without looking at those before it.

By default the row is made of passes over all images, each in an order of its own. Balanced, a
place draws a class first, then one of the images that show it, as DAFormer's rare class sampling
does (Hoyer et al., CVPR 2022). That draws the class by exp((1 - share) / T); here its weight is
share^(1 - balance), which needs no temperature: 0 draws a class as often as its pixels come, 1 all
classes equally often (our choice, not in the paper).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from sseg_core.data.label_shards import LabelEntry
from sseg_core.data.order import generator
from sseg_core.structures import VOID

# An image shows a class if this share of its pixels does: fewer are as likely a teacher's mistake,
# and seldom in the crop. DAFormer asks for 3000 of 1914 x 1052 pixels, 0.15 %.
_LEAST_SHARE = 0.0015


class LabelledOrder:
    """The endless row of images, each place a function of its number.

    Args:
        entries: the labelled images, at least one.
        seed: of the row.
        balance: 0 for passes over all images, up to 1 for equally frequent classes.
    """

    def __init__(self, entries: Sequence[LabelEntry], seed: int, balance: float) -> None:
        self._length = len(entries)
        self._seed = seed
        self._showing, self._weights = _classes(entries, balance) if balance else ([], [])
        self._pass = -1
        self._permuted: list[int] = []

    def index(self, place: int) -> int:
        """Return which of the images is at a place."""
        if self._showing:
            rng = generator(self._seed, "balanced", place)
            (images,) = rng.choices(self._showing, cum_weights=self._weights)
            return rng.choice(images)
        a_pass, position = divmod(place, self._length)
        if a_pass != self._pass:
            self._permuted = list(range(self._length))
            generator(self._seed, "pass", a_pass).shuffle(self._permuted)
            self._pass = a_pass
        return self._permuted[position]

    def instead(self, place: int) -> Iterator[int]:
        """Yield images, endlessly, to take the place of an unusable one."""
        rng = generator(self._seed, "instead", place)
        while True:
            yield rng.randrange(self._length)

    def crop_generator(self, place: int) -> random.Random:
        """Return the generator of the crop at a place."""
        return generator(self._seed, "crop", place)


def _classes(entries: Sequence[LabelEntry], balance: float) -> tuple[list[list[int]], list[float]]:
    """Return for each label that occurs the images that show it, and the summed weights.

    Background is a label as any; pixels of too little confidence count, for a threshold that hides
    a class does not make it frequent. Where no image shows enough of a label, all that have it do.
    """
    pixels: Counter[int] = Counter()
    showing: dict[int, list[int]] = {}
    having: dict[int, list[int]] = {}
    for number, entry in enumerate(entries):
        least = _LEAST_SHARE * entry.height * entry.width
        for label, count in entry.pixels.items():
            if label != VOID:
                pixels[label] += count
                having.setdefault(label, []).append(number)
                if count >= least:
                    showing.setdefault(label, []).append(number)
    labels = sorted(pixels)
    total = pixels.total()
    weights = [(pixels[label] / total) ** (1 - balance) for label in labels]
    return [showing.get(label, having[label]) for label in labels], list(accumulate(weights))
