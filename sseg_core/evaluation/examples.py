"""What a benchmark is: images with true label maps, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import RGBImage


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a benchmark with its truth.

    Attributes:
        key: unique in the benchmark.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] uint8 index into the benchmark's labels, 255 where no label counts.
    """

    key: str
    image: RGBImage
    truth: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A set of examples and what their labels mean.

    Attributes:
        name: as in `sseg eval --benchmark`.
        class_names: the classes a model is asked for, background not among them.
        has_background: truth label 0 is background, and class i has the label i + 1; without
            background class i has the label i.
        keys: of the examples, in order.
        load: returns the example of a key; raises ImageError if its files are damaged.
        background_threshold: lower probabilities are background, unless the user says otherwise.
        subsets: groups of classes that get a mean IoU of their own, by name.
    """

    name: str
    class_names: tuple[str, ...]
    has_background: bool
    keys: tuple[str, ...]
    load: Callable[[str], Example]
    background_threshold: float = 0.0
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Example]:
        return map(self.load, self.keys)
