"""What a benchmark is: images with true label maps, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sseg_core.data.images import ImageError, RGBImage
from sseg_core.errors import printable
from sseg_core.structures import BACKGROUND, VOID, LabelMap

__all__ = ["BACKGROUND", "VOID", "Benchmark", "Example", "LabelMap"]


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

    Image and truth are read apart: those who need no truth never open it.

    Attributes:
        name: as in `sseg eval --benchmark`.
        split: of the benchmark.
        class_names: the classes a model is asked for, background not among them, in the order of
            the benchmark's own label values.
        has_background: some pixels are known to show none of the classes.
        keys: of the examples, in order.
        image: returns the [H, W, 3] uint8 RGB image of a key; raises ImageError if its file is
            damaged. It can be pickled, for loader processes.
        truth: the same for the [H, W] label map of a key.
        subsets: groups of classes that get a mean IoU of their own, by name.
        source: what the truth was read from, where there are several ways, in a few words.
    """

    name: str
    class_names: tuple[str, ...]
    has_background: bool
    keys: tuple[str, ...]
    image: Callable[[str], RGBImage]
    truth: Callable[[str], LabelMap]
    split: str = "val"
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, key: str) -> Example:
        """Return the example of a key.

        Raises:
            ImageError: image or truth is damaged, or they are not of the same size.
        """
        image, truth = self.image(key), self.truth(key)
        if truth.shape != image.shape[:2]:
            (height, width), (rows, columns) = image.shape[:2], truth.shape
            problem = f"has a truth of {columns} x {rows} pixels, but is {width} x {height} itself"
            raise ImageError("bad truth", problem, f"The image {printable(key)}")
        return Example(key, image, truth)

    def __iter__(self) -> Iterator[Example]:
        return map(self.load, self.keys)
