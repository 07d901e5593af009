"""Images as a network sees them: resized, at one size or several, mirrored or not, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sseg_core.data.images import RGBImage
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.view import View
from sseg_core.inference.windows import Window, window_boxes


@dataclass(frozen=True, eq=False)
class Looks:
    """Images that are seen at the same sizes, so that they go through a network together.

    Attributes:
        members: where the n images stand among those that were given.
    """

    members: tuple[int, ...]
    _resized: Sequence[Sequence[RGBImage]]
    _view: View

    def windows(self) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
        """Yield the windows of one look after the other, the smallest number of a look first.

        The windows of a mirrored look are laid over the mirror image, as mmsegmentation does: so
        the mirror image of an image is looked at in the same ways as the image.

        Returns:
            Where a window lies in the image, and [n, h, w, 3] uint8 RGB of all images, mirrored
            where the window is.
        """
        assert self._view.window is not None
        assert self._view.stride is not None
        look = 0
        for images in self._resized:
            pixels = np.stack(images)
            size = (pixels.shape[1], pixels.shape[2])
            for mirrored in (False, True) if self._view.flip else (False,):
                shown = pixels[:, :, ::-1] if mirrored else pixels
                for box in window_boxes(size, self._view.window, self._view.stride):
                    part = shown[:, box.top : box.bottom, box.left : box.right]
                    place = replace(box, left=size[1] - box.right) if mirrored else box
                    window = Window(place, size, mirrored, look, tapers=self._view.blend == "taper")
                    yield window, np.ascontiguousarray(part)
                look += 1


def looks_at(images: Sequence[RGBImage], view: View) -> list[Looks]:
    """Resize images as a view says, and put together those that get the same sizes.

    Args:
        images: [H, W, 3] uint8, of any sizes.
        view: filled in.
    """
    assert view.short_side is not None
    assert view.scales is not None
    side = view.short_side
    sides = [side if scale == 1 else max(1, round(side * scale)) for scale in view.scales]
    inputs = [[at_short_side(image, side) for side in sides] for image in images]
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index, resized in enumerate(inputs):
        groups.setdefault(tuple(pixels.shape[:2] for pixels in resized), []).append(index)
    return [
        Looks(
            members=tuple(members),
            _resized=[[inputs[index][number] for index in members] for number in range(len(sides))],
            _view=view,
        )
        for members in groups.values()
    ]
