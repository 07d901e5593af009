"""What each image contributed to the scores, and the intervals that follow from it.

Per image only the labels that occur are kept, so that a benchmark of 5000 images and 1204 labels
takes a few megabytes.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sseg_core.errors import ArtifactError
from sseg_core.evaluation.metrics.confusion import iou_of, mean_of_present

_CHUNK = 1 << 20  # numbers that a chunk of bootstrap samples may hold per array

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """The pixels of one image, by the labels that occur in its truth or prediction.

    Attributes:
        key: of the image in its benchmark.
        labels: [n] label indices, ascending.
        truth: [n] pixels of the label in the truth.
        predicted: [n] counted pixels that were given the label.
        right: [n] pixels of which both is true.
        boundary: boundary F, 0 to 1; NaN where the image has none.
    """

    key: str
    labels: _Counts
    truth: _Counts
    predicted: _Counts
    right: _Counts
    boundary: float


class PerImage:
    """Counts of every image of a benchmark, in the order in which they were added."""

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._images: dict[str, ImageCounts] = {}

    def __len__(self) -> int:
        return len(self._images)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the images, in order."""
        return tuple(self._images)

    def __getitem__(self, key: str) -> ImageCounts:
        return self._images[key]

    def add(
        self,
        key: str,
        prediction: npt.NDArray[np.integer],
        truth: npt.NDArray[np.integer],
        boundary: float,
    ) -> None:
        """Add an image.

        Args:
            key: of the image, not seen before.
            prediction: [H, W] label index, negative for a pixel that was given none.
            truth: [H, W] label index, negative for a pixel that does not count.
            boundary: its boundary F, NaN if it has none.
        """
        assert key not in self._images, key
        counted = truth >= 0
        true = truth[counted].astype(np.intp)
        given = prediction[counted].astype(np.intp)
        size = self.num_labels
        in_truth = np.bincount(true, minlength=size)
        predicted = np.bincount(given[given >= 0], minlength=size)
        right = np.bincount(true[true == given], minlength=size)
        assert len(in_truth) == len(predicted) == size, "a label beyond the last"
        labels = np.flatnonzero(in_truth + predicted)
        self._images[key] = ImageCounts(
            key, labels, in_truth[labels], predicted[labels], right[labels], boundary
        )

    def merge(self, other: PerImage) -> None:
        """Add the images of another part of the benchmark; no image may be in both."""
        assert self.num_labels == other.num_labels
        assert self._images.keys().isdisjoint(other._images)
        self._images.update(other._images)

    def ordered(self, keys: Sequence[str]) -> PerImage:
        """Return the images in the order of `keys`; a key without an image was skipped.

        However the images were shared out among processes, the same images in the same order give
        the same intervals to the last bit.
        """
        result = PerImage(self.num_labels)
        result._images = {key: self._images[key] for key in keys if key in self._images}
        return result

    def miou_of(self, key: str) -> float:
        """Return the mIoU of one image in percent, over the labels that occur in it."""
        image = self._images[key]
        return float(mean_of_present(iou_of(image.right, image.truth, image.predicted)))

    def pixel_accuracy_of(self, key: str) -> float:
        """Return the pixel accuracy of one image in percent, NaN if none of its pixels counts."""
        image = self._images[key]
        pixels = int(image.truth.sum())
        return 100.0 * int(image.right.sum()) / pixels if pixels else math.nan

    def boundary_f(self) -> float:
        """Return the mean boundary F in percent; images without any border are left out."""
        scores = [i.boundary for i in self._images.values() if not math.isnan(i.boundary)]
        return 100 * math.fsum(scores) / len(scores) if scores else math.nan

    def miou(self) -> float:
        """Return the mIoU over the pixels of all images in percent, as `ConfusionMatrix` has it."""
        return float(self._miou_of_weighted(np.ones((1, len(self)), np.int64))[0])

    def interval(
        self, seed: int = 0, samples: int = 1000, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Return the interval of `miou` by bootstrap over images, in percent.

        Images are drawn anew with replacement, as many as there are, and the mIoU over their
        pixels is computed, `samples` times. The interval lies around the mIoU itself and is as wide
        as the spread of these tells (Efron's standard interval). Their percentiles are no worse
        where every class is in many images, but off where classes are rare, for those that a draw
        misses are left out of its mean: of made-up images of 500 classes they hold the mIoU of the
        very images half of the time (tests/benchmarks/intervals.py).

        It says how far the score depends on which images the benchmark happens to have, not how
        far a benchmark of more images would differ: with rare classes the mIoU itself moves with
        the number of images. Of one image it has no width; it is (NaN, NaN) without any.

        Args:
            seed: of the draws.
            samples: how often.
            confidence: of the interval.
        """
        draws = _draws(len(self), self.num_labels, seed, samples)
        spread = _spread([self._miou_of_weighted(w) for w in draws], confidence)
        miou = self.miou()
        if math.isnan(miou):
            return math.nan, math.nan
        return max(0.0, miou - spread), min(100.0, miou + spread)

    def paired_interval(
        self, other: PerImage, seed: int = 0, samples: int = 1000, confidence: float = 0.95
    ) -> tuple[float, float]:
        """Return the interval of this mIoU less that of another model, in points.

        Both are computed on the same draws of the images that both have, so that what is hard in
        an image cancels: two models differ where 0 is outside, even if their own intervals
        overlap. Otherwise as `interval`; (NaN, NaN) without a common image.
        """
        common = sorted(self._images.keys() & other._images.keys())
        mine, others = self.ordered(common), other.ordered(common)
        draws = _draws(len(common), max(self.num_labels, other.num_labels), seed, samples)
        spread = _spread(
            [mine._miou_of_weighted(w) - others._miou_of_weighted(w) for w in draws], confidence
        )
        difference = mine.miou() - others.miou()
        return difference - spread, difference + spread

    def as_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the counts as arrays, for `from_arrays`; the same images as the same bytes."""
        images = list(self._images.values())
        return {
            "num_labels": np.array(self.num_labels, np.int64),
            "keys": np.frombuffer(json.dumps(self.keys).encode("ascii"), np.uint8),
            "lengths": np.array([len(i.labels) for i in images], np.int64),
            "labels": _joined([i.labels for i in images]),
            "truth": _joined([i.truth for i in images]),
            "predicted": _joined([i.predicted for i in images]),
            "right": _joined([i.right for i in images]),
            "boundary": np.array([i.boundary for i in images], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> PerImage:
        """Return the counts that `as_arrays` made.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not belong together.
        """
        result = cls(int(arrays["num_labels"]))
        keys = json.loads(arrays["keys"].tobytes())
        ends = np.cumsum(arrays["lengths"])
        counts = {name: arrays[name] for name in ("labels", "truth", "predicted", "right")}
        size = int(ends[-1]) if len(ends) else 0
        if any(len(c) != size or (size and c.min() < 0) for c in counts.values()):
            raise ValueError("counts that do not belong together")
        if size and counts["labels"].max() >= result.num_labels:
            raise ValueError("a label beyond the last")
        if not keys:
            return result
        columns = (np.split(c.astype(np.int64), ends[:-1]) for c in counts.values())
        for key, boundary, labels, truth, predicted, right in zip(
            keys, arrays["boundary"], *columns, strict=True
        ):
            result._images[key] = ImageCounts(key, labels, truth, predicted, right, float(boundary))
        return result

    def save(self, path: Path) -> None:
        """Write the counts as `.npz`, the same images as the same bytes."""
        with path.open("wb") as stream:  # given a name, NumPy would add a suffix to it
            np.savez_compressed(stream, allow_pickle=False, **self.as_arrays())

    @classmethod
    def load(cls, path: Path) -> PerImage:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls.from_arrays(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"The counts per image in {path} cannot be read.", "Run sseg eval once more."
            ) from error

    def _miou_of_weighted(self, weights_SN: _Counts) -> npt.NDArray[np.float64]:
        """Return the mIoU [S] of samples that hold image n `weights_SN[s, n]` times."""
        images = list(self._images.values())
        columns = np.repeat(np.arange(len(images)), [len(i.labels) for i in images])
        rows = _joined([i.labels for i in images])

        def total(counts: list[_Counts]) -> _Counts:
            by_label_CN = sparse.csr_array(
                (_joined(counts), (rows, columns)), shape=(self.num_labels, len(images))
            )
            # In whole numbers, hence exact in whatever order they are added.
            sums: _Counts = np.ascontiguousarray((by_label_CN @ weights_SN.T).T)
            return sums

        right = total([i.right for i in images])
        truth = total([i.truth for i in images])
        return mean_of_present(iou_of(right, truth, total([i.predicted for i in images])))


def _draws(images: int, num_labels: int, seed: int, samples: int) -> Iterator[_Counts]:
    """Yield [s, images] how often each image is in each sample, some of the samples at a time."""
    if not images:
        return
    generator = np.random.default_rng(seed)
    most = max(1, _CHUNK // max(images, num_labels))
    for start in range(0, samples, most):
        number = min(most, samples - start)
        drawn = generator.integers(images, size=(number, images))
        drawn += images * np.arange(number)[:, None]
        yield np.bincount(drawn.ravel(), minlength=number * images).reshape(number, images)


def _spread(scores: list[npt.NDArray[np.float64]], confidence: float) -> float:
    """Return half the width of the interval; NaN without scores."""
    known = np.concatenate(scores) if scores else np.zeros(0)
    known = known[~np.isnan(known)]
    if not known.size:
        return math.nan
    return NormalDist().inv_cdf((1 + confidence) / 2) * float(known.std())


def _joined(parts: list[_Counts]) -> _Counts:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
