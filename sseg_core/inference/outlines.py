"""Outer borders of masks as polygons, as COCO has them.

A border is followed along the edges of the pixels and then simplified. Polygons tell less than the
run-length encoded masks, which are exact: holes are filled, and a border may be off by a tolerance.

Needs contourpy and shapely.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_PIXELS = 1 << 22
"""Larger masks are followed at a reduced size, so that memory does not grow with them."""

_THIN = 0.1
"""The tolerance of a part of a mask is at most so much of its area divided by the length of its
border, for a small or thin one would become something else (our choice, not in the paper)."""


def polygons(mask_HW: npt.NDArray[np.bool_], *, tolerance: float = 1.0) -> list[list[float]]:
    """Return the outer borders of the parts of a mask, the largest part first.

    Pixels that touch at a corner only are parts of their own. A part in a hole of another is left
    out, for the hole is filled. From masks whose bounding box has more than some 4 million pixels
    every n-th row and column is taken, and the tolerance is n times as large; what is thinner may
    be missing.

    Args:
        mask_HW: [H, W] bool.
        tolerance: in pixels, by which a border may be off; 0 keeps every corner.

    Returns:
        For each part [x1, y1, x2, y2, ...] of three corners or more, in pixels from the top left
        corner of the image: the mask of the first pixel alone is [0, 0, 1, 0, 1, 1, 0, 1], or
        begins at another corner.
    """
    import shapely

    rows = np.flatnonzero(mask_HW.any(axis=1))
    if not rows.size:
        return []
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask_HW[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    mask = mask_HW[top:bottom, left:right]
    factor = math.ceil(math.sqrt(mask.size / _MOST_PIXELS))
    if factor > 1:
        mask = mask[np.ix_(*(_middles(length, factor) for length in mask.shape))]
        if not mask.any():
            return []
    borders, areas = _outer_borders(mask)
    allowed = np.minimum(tolerance, _THIN * areas / shapely.length(borders))
    simple = shapely.simplify(borders, allowed, preserve_topology=False)
    # Keeping borders from crossing themselves takes twenty times as long, and is rarely needed.
    crossing = shapely.is_empty(simple) | ~shapely.is_valid(simple)
    simple[crossing] = shapely.simplify(borders[crossing], allowed[crossing])
    points, part = shapely.get_coordinates(simple, return_index=True)
    places = np.minimum(points * factor, (right - left, bottom - top))
    places += (left, top)
    # Rings are closed: the last point is the first.
    parts = np.split(places, np.diff(part).nonzero()[0] + 1)
    return [of_part[:-1].ravel().tolist() for of_part in parts if len(of_part) > 3]


def _middles(length: int, factor: int) -> npt.NDArray[np.intp]:
    """Return the index of the middle of each of the pieces into which a line is cut."""
    return np.minimum(np.arange(0, length, factor) + factor // 2, length - 1)


def _outer_borders(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return shapely rings along the edges of the pixels, the largest first, and their areas."""
    import contourpy
    import shapely

    padded = np.pad(mask, 1).astype(np.float32)
    # A little above the mean of four pixels that meet: those that touch at a corner are not one.
    generator = contourpy.contour_generator(
        z=padded, name="serial", line_type=contourpy.LineType.ChunkCombinedOffset
    )
    found: Any = generator.lines(0.5 + 1e-6)
    offsets = found[1][0].astype(np.int64)
    # Of each pixel's edge the middle, in halves of pixels.
    middles = np.rint(2 * found[0][0]).astype(np.int64) - 1
    corners, ring = _corners(middles, offsets)
    starts = np.searchsorted(ring, np.arange(len(offsets) - 1))
    is_last = np.append(np.diff(ring) > 0, True)
    following = np.where(is_last, starts[ring], np.arange(1, len(ring) + 1))
    crosses = corners[:, 0] * corners[following, 1] - corners[following, 0] * corners[:, 1]
    areas = np.add.reduceat(crosses, starts) / 2
    rings = shapely.linearrings(corners.astype(np.float64), indices=ring)
    is_outer = areas > 0  # holes run the other way round
    if not is_outer.all() and is_outer.sum() > 1:
        # The middle of an edge lies in the hole or out of it, not on its border.
        tree = shapely.STRtree(shapely.polygons(rings[~is_outer]))
        places = shapely.points(middles[offsets[:-1]] / 2)
        in_hole, _ = tree.query(places, predicate="within")
        is_outer[in_hole] = False
    order = np.argsort(-areas[is_outer], kind="stable")
    return rings[is_outer][order], areas[is_outer][order]


def _corners(
    middles: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the corners of rings, [n, 2] in pixels, and [n] the ring of each, ascending.

    Where a ring turns it goes aslant from the middle of one edge to that of the next.

    Args:
        middles: [m, 2] x and y of the middles of edges, in halves of pixels; closed rings.
        offsets: where the rings begin, and m.
    """
    one, other = middles[:-1], middles[1:]
    turns = (one != other).all(axis=1)
    turns[offsets[1:-1] - 1] = False  # from one ring to the next
    index = turns.nonzero()[0]
    one, other = one[index], other[index]
    lies_flat = one[:, 1] % 2 == 0  # the edge of the first, whose y is then that of the corner
    x = np.where(lies_flat, other[:, 0], one[:, 0])
    y = np.where(lies_flat, one[:, 1], other[:, 1])
    ring = np.searchsorted(offsets, index, side="right") - 1
    return np.stack([x, y], axis=1) // 2, ring
