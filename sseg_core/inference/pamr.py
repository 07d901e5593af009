"""Pixel-adaptive mask refinement: maps follow the colours of the image.

PAMR (Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020,
Sec. 4.2; visinf/1-stage-wseg), with the settings of TCL (Cha et al., CVPR 2023; khanrc/tcl). Each
pixel takes the mean of its neighbours' values, the more of those that look like it, ten times:

    k(x, y) = -mean over the colours of |I(x) - I(y)| / (0.1 sigma(x)),
    a(x, .) = softmax of k over the neighbours y of x,      m(x) <- sum_y a(x, y) m(y)

The neighbours are the eight around x at each of the dilations, 48 in all, and sigma(x) is the
standard deviation of the colour over them and x. Beyond the border the image goes on as it ends.

The step is linear in m, and the weights a sum to 1. So it commutes with the sum over the masks
that makes class probabilities, P_c = sum_q p(c | q) v_q: the weights v of the Q masks are refined
instead of the scores of C classes. That is the same result, at a cost that does not grow with the
number of classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.inference.mask_weights import WindowMasks, cell_weights

_ITERATIONS = 10  # TCL
_DILATIONS = (1, 2, 4, 8, 12, 24)  # TCL
_SHARPNESS = 0.1  # the authors' code
_REACH = max(_DILATIONS)
_OFFSETS = [
    (d * y, d * x) for d in _DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)
]


def refine_window(window: WindowMasks, pixels_3HW: Tensor) -> WindowMasks:
    """Return the window with masks that follow its colours.

    Like TCL, on the grid of the masks; each cell has the colour that bilinear interpolation finds
    at its centre.

    Args:
        window: with mask logits.
        pixels_3HW: [3, H, W] float, the part of the image that the window shows.
    """
    weights_Qhw = cell_weights(window)
    _, h, w = weights_Qhw.shape
    # The grid may stick out of the window by a part of a cell.
    beyond = h * window.stride - pixels_3HW.shape[1], w * window.stride - pixels_3HW.shape[2]
    padded = F.pad(pixels_3HW[None], (0, beyond[1], 0, beyond[0]), mode="replicate")
    colours = F.interpolate(padded, (h, w), mode="bilinear")[0]
    return replace(window, values=refine(weights_Qhw, colours), are_weights=True)


def refine(maps_Mhw: Tensor, image_3hw: Tensor) -> Tensor:
    """Return [M, h, w] float32 maps that follow the colours of an image of the same size.

    Args:
        maps_Mhw: [M, h, w] maps of anything that may be averaged.
        image_3hw: [3, h, w] float RGB on any scale.
    """
    weights_Nhw = _affinities(image_3hw.float())
    maps = maps_Mhw.float()
    for _ in range(_ITERATIONS):
        neighbours = _neighbours(maps)
        maps = torch.zeros_like(maps)
        for weight, neighbour in zip(weights_Nhw, neighbours, strict=True):
            maps.addcmul_(weight, neighbour)
    return maps


def _affinities(image_3hw: Tensor) -> Tensor:
    """Return a, [N, h, w], the weight of each neighbour of each pixel."""
    neighbours = _neighbours(image_3hw)
    # One neighbour at a time: three colours of all of them would be the most that is ever held.
    # The pixel itself counts once for each dilation.
    samples = [*neighbours, *[image_3hw] * len(_DILATIONS)]
    mean = sum(samples, torch.zeros_like(image_3hw)) / len(samples)
    squares = sum(((sample - mean) ** 2 for sample in samples), torch.zeros_like(mean))
    deviation = (squares / (len(samples) - 1)).sqrt()
    scale = 1e-8 + _SHARPNESS * deviation
    likeness = [-((neighbour - image_3hw).abs() / scale).mean(dim=0) for neighbour in neighbours]
    return torch.stack(likeness).softmax(dim=0)


def _neighbours(maps_Mhw: Tensor) -> list[Tensor]:
    """Return N views [M, h, w]: at each pixel the value of one of its neighbours."""
    _, h, w = maps_Mhw.shape
    padded = F.pad(maps_Mhw[None], (_REACH,) * 4, mode="replicate")[0]
    return [
        padded[:, _REACH + y : _REACH + y + h, _REACH + x : _REACH + x + w] for y, x in _OFFSETS
    ]
