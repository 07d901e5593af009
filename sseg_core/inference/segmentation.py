"""What the segmenter returns for one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from sseg_core.inference.prediction import Prediction
from sseg_core.inference.render import overlay
from sseg_core.structures import BACKGROUND

if TYPE_CHECKING:
    from PIL import Image

_PIXELS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A class for every pixel of an image, at the image's own size.

    Attributes:
        label_map: [H, W] int16 index into `class_names`, -1 where no class is probable enough, or
            where background is told apart.
        probabilities: [H, W] float32 in [0, 1], of the most probable class of each pixel, also
            where it is too low and the pixel counts as background; of background where that is
            told apart. None from a model that tells none.
        class_names: the names that were asked for, in their order.
        image: [H, W, 3] uint8 RGB, the image that was segmented.
        class_probabilities: [C, H, W] float32 of every class at every pixel, where asked for; what
            is missing to 1 is background.
    """

    label_map: npt.NDArray[np.int16]
    probabilities: npt.NDArray[np.float32] | None
    class_names: tuple[str, ...]
    image: npt.NDArray[np.uint8]
    class_probabilities: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        class_names: tuple[str, ...],
        image: npt.NDArray[np.uint8],
        threshold: float = 0.0,
        class_probabilities: npt.NDArray[np.float32] | None = None,
    ) -> Self:
        """Return what a model answered, with pixels that it is less sure of as background.

        Args:
            prediction: of the image.
            class_names: see the attributes, as for `image` and `class_probabilities`.
            image: see the attributes.
            threshold: pixels whose best probability is lower are background, in [0, 1].
            class_probabilities: see the attributes.
        """
        label_map = prediction.label_map
        if threshold > 0 and prediction.confidence is not None:
            low = prediction.confidence < threshold
            label_map = np.where(low, np.int16(BACKGROUND), label_map)
        return cls(label_map, prediction.confidence, class_names, image, class_probabilities)

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
        if self.probabilities is None:
            return dict.fromkeys(self.class_names)
        sums = self._sums(self.probabilities)
        pairs = zip(self._pixels.tolist(), sums.tolist(), strict=True)
        means = (total / pixels if pixels else None for pixels, total in pairs)
        return dict(zip(self.class_names, means, strict=True))

    def overlay(self) -> Image.Image:
        """Draw the classes over the image, with names and a legend."""
        return overlay(self.image, self.label_map, self.class_names)

    def to_coco_rle(self) -> list[dict[str, Any]]:
        """Return the classes that were found as COCO results, with run-length encoded masks.

        `category_id` is the class's index in `class_names`, `score` its mean probability, and
        `bbox` is [x, y, width, height] in pixels. Needs pycocotools.
        """
        from pycocotools import mask as coco_mask

        coco: Any = coco_mask  # untyped
        means = self.mean_probability
        results = []
        for index, name, mask in self._found():
            rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            results.append(
                {
                    "category_id": index,
                    "category": name,
                    "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
                    "area": int(self._pixels[index]),
                    "bbox": coco.toBbox(rle).tolist(),
                    "score": means[name],
                }
            )
        return results

    def to_polygons(self, tolerance: float = 1.0) -> dict[str, list[list[float]]]:
        """Return the outer borders of the classes that were found, as COCO has polygons.

        Holes are filled: the run-length encoded masks are exact, these are not. Needs contourpy
        and shapely.

        Args:
            tolerance: in pixels, by which a border may be off.

        Returns:
            By class name a list of [x1, y1, x2, y2, ...] in pixels from the top left corner.
        """
        from sseg_core.inference.outlines import polygons

        return {name: polygons(mask, tolerance=tolerance) for _, name, mask in self._found()}

    def to_json(self) -> dict[str, Any]:
        """Return what was found as plain JSON values, in the order of the class names.

        Classes without a pixel are left out: of thousands that are asked for, few are found.
        """
        height, width = self.label_map.shape
        shares, outlines = self.shares, self.to_polygons()
        return {
            "width": width,
            "height": height,
            "background_share": float((self.label_map == BACKGROUND).mean()),
            "classes": [
                {
                    "name": entry["category"],
                    "index": entry["category_id"],
                    "area_share": shares[entry["category"]],
                    "mean_probability": entry["score"],
                    "bbox": entry["bbox"],
                    "rle": entry["segmentation"],
                    "polygons": outlines[entry["category"]],
                }
                for entry in self.to_coco_rle()
            ],
        }

    def _found(self) -> Iterator[tuple[int, str, npt.NDArray[np.bool_]]]:
        """Yield index, name and [H, W] mask of each class that has a pixel."""
        for index in np.nonzero(self._pixels)[0].tolist():
            yield index, self.class_names[index], self.label_map == index

    @cached_property
    def _pixels(self) -> npt.NDArray[np.intp]:
        """[C] number of pixels of each class."""
        return self._sums(None)

    def _sums(self, values: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
        """Return [C] the sum of some values over the pixels of each class; of ones without any."""
        sums: npt.NDArray[Any] = np.zeros(
            len(self.class_names) + 1, int if values is None else float
        )
        # Some rows at a time: bincount makes labels and values eight bytes long.
        rows = max(1, _PIXELS_AT_ONCE // self.label_map.shape[1])
        for top in range(0, len(self.label_map), rows):
            part = slice(top, top + rows)
            sums += np.bincount(
                self.label_map[part].ravel() + 1,
                weights=None if values is None else values[part].ravel(),
                minlength=len(sums),
            )
        return sums[1:]  # the first is background
