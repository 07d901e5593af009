"""What the segmenter returns for one image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from sseg_core.inference.combine import BACKGROUND
from sseg_core.inference.render import overlay

_coco: Any = coco_mask  # untyped


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A class for every pixel of an image, at the image's own size.

    Attributes:
        label_map: [H, W] int16 index into `class_names`, -1 where no class is probable enough, or
            where a student tells background by itself.
        probabilities: [H, W] float32 in [0, 1], of the most probable class of each pixel, also
            where it is too low and the pixel counts as background; of background where a student
            tells it.
        class_names: the names that were asked for, in their order.
        image: [H, W, 3] uint8 RGB, the image that was segmented.
    """

    label_map: npt.NDArray[np.int16]
    probabilities: npt.NDArray[np.float32]
    class_names: tuple[str, ...]
    image: npt.NDArray[np.uint8]

    @property
    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """[H, W] masks by class name, empty ones included."""
        return {name: self.label_map == index for index, name in enumerate(self.class_names)}

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image's pixels in [0, 1] by class name; background takes the rest."""
        shares = self._pixels / self.label_map.size
        return dict(zip(self.class_names, shares.tolist(), strict=True))

    @property
    def mean_probability(self) -> dict[str, float | None]:
        """Mean probability over the pixels of each class; None for a class without any."""
        # Background is counted in bin 0 and dropped.
        sums = np.bincount(
            self.label_map.ravel() + 1,
            weights=self.probabilities.ravel(),
            minlength=len(self.class_names) + 1,
        )[1:]
        pairs = zip(self._pixels.tolist(), sums.tolist(), strict=True)
        means = (total / pixels if pixels else None for pixels, total in pairs)
        return dict(zip(self.class_names, means, strict=True))

    def overlay(self) -> Image.Image:
        """Draw the classes over the image, with names and a legend."""
        return overlay(self.image, self.label_map, self.class_names)

    def to_coco_rle(self) -> list[dict[str, Any]]:
        """Return the non-empty classes as COCO results, with run-length encoded masks.

        `category_id` is the class's index in `class_names`, `score` its mean probability, and
        `bbox` is [x, y, width, height] in pixels.
        """
        means = self.mean_probability
        results = []
        for index, (name, mask) in enumerate(self.masks.items()):
            if not mask.any():
                continue
            rle = _coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            results.append(
                {
                    "category_id": index,
                    "category": name,
                    "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": _coco.toBbox(rle).tolist(),
                    "score": means[name],
                }
            )
        return results

    def to_json(self) -> dict[str, Any]:
        """Return what was found as plain JSON values, classes without a pixel included.

        `rle` is None for a class without a pixel.
        """
        height, width = self.label_map.shape
        means = self.mean_probability
        rles = {entry["category"]: entry["segmentation"] for entry in self.to_coco_rle()}
        return {
            "width": width,
            "height": height,
            "background_share": float((self.label_map == BACKGROUND).mean()),
            "classes": [
                {
                    "name": name,
                    "area_share": share,
                    "mean_probability": means[name],
                    "rle": rles.get(name),
                }
                for name, share in self.shares.items()
            ],
        }

    @cached_property
    def _pixels(self) -> npt.NDArray[np.intp]:
        """[C] number of pixels of each class."""
        return np.bincount(self.label_map.ravel() + 1, minlength=len(self.class_names) + 1)[1:]
