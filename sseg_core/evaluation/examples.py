"""What a benchmark is: images with true label maps, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import RGBImage
from sseg_core.inference.combine import BACKGROUND

__all__ = ["BACKGROUND", "VOID", "Benchmark", "Example", "LabelMap"]

VOID = -2
"""Label of a pixel that does not count: nobody knows its class, or it has none."""

LabelMap = npt.NDArray[np.int16]
"""[H, W] class index, `BACKGROUND` or `VOID`."""


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a benchmark with its truth.

    Attributes:
        key: unique in the benchmark.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] index into the benchmark's classes, `BACKGROUND` or `VOID`.
    """

    key: str
    image: RGBImage
    truth: LabelMap


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A set of examples and what their labels mean.

    Attributes:
        name: as in `sseg eval --benchmark`.
        split: of the benchmark.
        class_names: the classes a model is asked for, background not among them, in the order of
            the benchmark's own label values.
        has_background: some pixels are known to show none of the classes.
        keys: of the examples, in order.
        load: returns the example of a key; raises ImageError if its files are damaged.
        subsets: groups of classes that get a mean IoU of their own, by name.
        source: what the truth was read from, where there are several ways, in a few words.
    """

    name: str
    class_names: tuple[str, ...]
    has_background: bool
    keys: tuple[str, ...]
    load: Callable[[str], Example]
    split: str = "val"
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Example]:
        return map(self.load, self.keys)
