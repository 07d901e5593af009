"""What a model answers for one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's answer for one image.

    Attributes:
        label_map: [H, W] int16 class index, `BACKGROUND` (-1) for background.
        confidence: [H, W] float in [0, 1], the probability of the label that the pixel has in
            `label_map`, also where that is background; a pixel below the protocol's threshold is
            background, whatever `label_map` says. None for a model that has no such measure.
    """

    label_map: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32] | None = None
