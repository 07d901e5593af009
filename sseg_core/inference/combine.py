"""From mask logits and class probabilities to a class for every pixel.

The one place that does so, for prediction, evaluation and self-training alike. As in MaskFormer's
semantic inference, with S-Seg's open vocabulary (S-Seg Sec. 3.2, App. A.1):

    S_c(y, x) = sum_q p(c | q) sigmoid(m_q(y, x)),      P_c = S_c / sum_q sigmoid(m_q)

Mask logits are interpolated bilinearly to the pixels before the sigmoid. The division turns the
scores into probabilities, which a background threshold needs; it does not change the best class.

Numerics: everything is computed in float32. Where every query is far from a pixel, the sigmoids
of float32 are all 0 and the division would be 0 / 0. There sigmoid(m) equals exp(m), so adding
the same amount to all logits of the pixel leaves P unchanged; `_mask_weights` uses that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND = -1
"""Label of a pixel that no class claims with enough probability."""

_CHUNK = 1 << 21
"""Floats of mask weights and class scores held at once (8 MiB): larger chunks only leave the
cache, and memory stays flat for a thousand classes on a large photo."""

_FAR = 50.0
"""Below -_FAR a sigmoid equals exp to the last bit of float32; exp(-_FAR) does not underflow."""


@dataclass(frozen=True)
class MaskGrid:
    """Where the mask logits lie in the image.

    Attributes:
        input_size: height and width of the image as the network saw it, without padding.
        stride: pixels of that image per grid cell; cell (i, j) covers the square of pixels that
            begins at (i * stride, j * stride), also where it sticks out of the image.
    """

    input_size: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class BestClasses:
    """The most probable class of each pixel.

    Attributes:
        classes: [B, H, W] int16 index of the class.
        probabilities: [B, H, W] float32 in [0, 1], the probability of that class.
    """

    classes: Tensor
    probabilities: Tensor


def class_probabilities(
    mask_embeddings_BQD: Tensor, text_embeddings_CD: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Return p(c | q): what each mask shows, as far as the class names go (S-Seg App. A.1).

    Args:
        mask_embeddings_BQD: [B, Q, D] projected mask features, L2-normalised.
        text_embeddings_CD: [C, D] projected text features, L2-normalised.
        logit_scale: 1 / sigma, the learned temperature of Eq. 2-3.

    Returns:
        [B, Q, C] float32, the softmax over the classes of the scaled cosine similarities.
    """
    cosines_BQC = mask_embeddings_BQD.float() @ text_embeddings_CD.float().T
    return (logit_scale * cosines_BQC).softmax(dim=-1)


def class_scores(
    mask_logits_BQhw: Tensor,
    class_probabilities_BQC: Tensor,
    size: tuple[int, int],
    grid: MaskGrid,
) -> Tensor:
    """Return the probability of every class at every pixel.

    Needs memory for all of it: where only the best class counts, use `best_classes`.

    Args:
        mask_logits_BQhw: [B, Q, h, w] logits of the masks.
        class_probabilities_BQC: [B, Q, C] from `class_probabilities`.
        size: H, W of the result; the image is stretched to it.
        grid: how the mask grid lies in the image.

    Returns:
        [B, C, H, W] float32 in [0, 1], summing to 1 over the classes.
    """
    rows = _probability_rows(mask_logits_BQhw, class_probabilities_BQC, size, grid)
    return torch.cat(list(rows), dim=2)


def best_classes(
    mask_logits_BQhw: Tensor,
    class_probabilities_BQC: Tensor,
    size: tuple[int, int],
    grid: MaskGrid,
) -> BestClasses:
    """Return the best class of every pixel and its probability, never holding all the scores.

    The arguments are those of `class_scores`.
    """
    shape, device = (len(mask_logits_BQhw), *size), mask_logits_BQhw.device
    classes = torch.empty(shape, dtype=torch.int16, device=device)
    probabilities = torch.empty(shape, device=device)
    top = 0
    for scores_BCrW in _probability_rows(mask_logits_BQhw, class_probabilities_BQC, size, grid):
        rows = slice(top, top + scores_BCrW.shape[2])
        probabilities[:, rows], classes[:, rows] = scores_BCrW.max(dim=1)
        top = rows.stop
    return BestClasses(classes, probabilities)


def label_map(best: BestClasses, threshold: float) -> Tensor:
    """Return the classes as [B, H, W] int16, `BACKGROUND` where the best is below `threshold`."""
    return best.classes.masked_fill(best.probabilities < threshold, BACKGROUND)


def _probability_rows(
    mask_logits_BQhw: Tensor,
    class_probabilities_BQC: Tensor,
    size: tuple[int, int],
    grid: MaskGrid,
) -> Iterator[Tensor]:
    """Yield P as [B, C, r, W], from the top of the image to its bottom."""
    B, Q, h, w = mask_logits_BQhw.shape
    C = class_probabilities_BQC.shape[2]
    H, W = size
    logits = mask_logits_BQhw.float()
    classes_BCQ = class_probabilities_BQC.float().transpose(1, 2)
    rows, columns = (
        _taps(H, grid.input_size[0], grid.stride, h),
        _taps(W, grid.input_size[1], grid.stride, w),
    )
    left, right, across = (tap.to(logits.device) for tap in columns)
    step = max(1, _CHUNK // (B * (Q + C) * W))
    for start in range(0, H, step):
        above, below, down = (tap[start : start + step] for tap in rows)
        first = int(above[0])
        # Columns first, on the few grid rows that this chunk touches: it is most of the work.
        slab = logits[:, :, first : int(below[-1]) + 1]
        slab = torch.lerp(slab[..., left], slab[..., right], across)
        above, below = (tap.to(logits.device) - first for tap in (above, below))
        pixel_logits = torch.lerp(
            slab[:, :, above], slab[:, :, below], down.to(logits.device)[:, None]
        )
        weights = _mask_weights(pixel_logits).flatten(2)
        scores = torch.bmm(classes_BCQ, weights) / weights.sum(dim=1, keepdim=True)
        yield scores.reshape(B, C, -1, W)


def _mask_weights(logits_BQrW: Tensor) -> Tensor:
    """Return sigmoid(m), times a factor that is common to the masks of a far pixel; in place."""
    shift = (logits_BQrW.amax(dim=1, keepdim=True) + _FAR).clamp(max=0)
    return logits_BQrW.sub_(shift).sigmoid_()


def _taps(size: int, input_size: int, stride: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each of `size` pixel centres the two cells around it and the way between them.

    The border cells reach to the border, as in torch's bilinear interpolation.
    """
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (input_size / size)
    position = (centres / stride - 0.5).clamp(0, cells - 1)
    low = position.floor().long()
    return low, (low + 1).clamp(max=cells - 1), (position - low).float()
