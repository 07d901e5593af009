"""What became of images and pixels when they were labelled: counts that can be added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.data.label_png import confidence_levels
from sseg_core.evaluation.examples import BACKGROUND, VOID
from sseg_core.labelling.teacher import Labels

_LEVELS = 256  # in which confidence is kept

_KEPT_AT = (*(tenth / 10 for tenth in range(10)), 0.95)


@dataclass(eq=False)
class Tally:
    """What became of the images of one shard, or of all; noted with each finished shard.

    Attributes:
        images: that were labelled.
        skipped: images that could not be read, by reason.
        pixels: of the labelled images, by label, `VOID` among them.
        confidence: [256] labelled pixels at each level of confidence; of a teacher that has none,
            there are none.
    """

    images: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    confidence: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LEVELS, np.int64))

    def count(self, labels: Labels) -> None:
        """Count the labels of one more image."""
        found, counts = np.unique(labels.label_map, return_counts=True)
        self.images += 1
        self.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if labels.confidence is not None:
            sure = labels.confidence[labels.label_map != VOID]
            self.confidence += np.bincount(confidence_levels(sure), minlength=_LEVELS)

    def add(self, other: Tally) -> None:
        """Add what another shard came to."""
        self.images += other.images
        self.skipped.update(other.skipped)
        self.pixels.update(other.pixels)
        self.confidence += other.confidence

    def note(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "images": self.images,
            "skipped": dict(self.skipped),
            "pixels": {str(label): count for label, count in sorted(self.pixels.items())},
            "confidence": self.confidence.tolist(),
        }

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> Tally:
        """Return the tally that a finished shard was noted with."""
        return cls(
            images=note["images"],
            skipped=Counter(note["skipped"]),
            pixels=Counter({int(label): count for label, count in note["pixels"].items()}),
            confidence=np.array(note["confidence"], np.int64),
        )

    def shares(self, class_names: Sequence[str], *, has_background: bool) -> dict[str, float]:
        """Return the percentage of the labelled pixels by label, background first if there is."""
        total = sum(count for label, count in self.pixels.items() if label != VOID)
        labels = {name: index for index, name in enumerate(class_names)}
        if has_background:
            labels = {"background": BACKGROUND} | labels
        return {name: 100 * self.pixels[label] / max(total, 1) for name, label in labels.items()}

    def never(self, class_names: Sequence[str]) -> list[str]:
        """Return the classes that no pixel was labelled with."""
        return [name for index, name in enumerate(class_names) if not self.pixels[index]]

    def mean_confidence(self) -> float | None:
        """Return the mean over the labelled pixels; None where there is no confidence."""
        total = int(self.confidence.sum())
        return float(self.confidence @ np.arange(_LEVELS)) / 255 / total if total else None

    def kept_at(self) -> dict[str, float]:
        """Return the percentage of the labelled pixels that are at least so confident.

        By 0.0, 0.1 to 0.9 and 0.95, as they are kept; empty where there is no confidence.
        """
        total = int(self.confidence.sum())
        levels = np.arange(_LEVELS) / 255
        return {
            str(least): 100 * int(self.confidence[levels >= least].sum()) / total
            for least in _KEPT_AT
            if total
        }
