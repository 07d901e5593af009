"""Operations of torch and timm that a traced graph holds for one size only, or not at all.

While a graph is written they are replaced by others that give the same for any size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from timm.models import vision_transformer
from torch import Tensor, nn

_RESAMPLE = "resample_abs_pos_embed"


@contextmanager
def traceable() -> Iterator[None]:
    """Replace `torch.roll`, and how timm's ViTs resample their table of positions.

    The exporter's roll cuts a side that is shorter than the shift in the wrong place, as the maps
    of a Swin are where a side of the image has 32 pixels or less; and it has no antialiased bicubic
    interpolation.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "roll", rolled))
        stack.enter_context(mock.patch.object(vision_transformer, _RESAMPLE, resampled))
        yield


def rolled(x: Tensor, shifts: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Return what `torch.roll` does, by gathered cells."""
    for shift, axis in zip(shifts, dims, strict=True):
        size = x.shape[axis]
        x = x.index_select(axis, (torch.arange(size) - shift) % size)
    return x


def resampled(
    posemb: Tensor,
    new_size: Sequence[int],
    old_size: Sequence[int] | None = None,
    num_prefix_tokens: int = 1,
    **_: Any,
) -> Tensor:
    """Return what timm's `resample_abs_pos_embed` does, by two products of matrices.

    Args:
        posemb: [1, prefix + h w, D] positions, row by row behind those of other tokens.
        new_size: H, W.
        old_size: h, w; default: a square.
        num_prefix_tokens: of other tokens, which stay as they are.

    Returns:
        [1, prefix + H W, D], bicubic and antialiased.
    """
    if old_size is None:
        side = round((posemb.shape[1] - num_prefix_tokens) ** 0.5)
        old_size = (side, side)
    prefix, table = posemb[:, :num_prefix_tokens], posemb[:, num_prefix_tokens:]
    table_1Dhw = table.reshape(1, *old_size, -1).permute(0, 3, 1, 2)
    rows_Hh, columns_Ww = (_cubic(old, new) for old, new in zip(old_size, new_size, strict=True))
    drawn_1DHW = rows_Hh @ table_1Dhw @ columns_Ww.T
    return torch.cat((prefix, drawn_1DHW.flatten(2).transpose(1, 2)), dim=1)


def _cubic(old: int, new: int) -> Tensor:
    """Return [new, old], what each old cell gives to each new one (Pillow's filter, a = -0.5)."""
    scale = old / torch.full((), new, dtype=torch.float32)
    centre = (torch.arange(new, dtype=torch.float32) + 0.5) * scale
    away = torch.arange(old, dtype=torch.float32) + 0.5 - centre[:, None]
    x = (away / scale.clamp(min=1.0)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return weights / weights.sum(dim=1, keepdim=True)


class GridPool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as products of matrices, for ONNX has none for maps of any size.

    Args:
        side: of the square grid.
    """

    def __init__(self, side: Any) -> None:
        super().__init__()
        assert isinstance(side, int)
        self.side = side

    def forward(self, map_BChw: Tensor) -> Tensor:
        """Return [B, C, side, side] means."""
        rows_ph, columns_pw = (self._shares(map_BChw.shape[axis]) for axis in (2, 3))
        pooled: Tensor = rows_ph @ map_BChw @ columns_pw.T
        return pooled

    def _shares(self, cells: int) -> Tensor:
        """Return [side, cells], the share of each cell in each part; parts may overlap."""
        part = torch.arange(self.side)[:, None]
        first = part * cells // self.side
        end = ((part + 1) * cells + self.side - 1) // self.side
        cell = torch.arange(cells)[None]
        inside = ((cell >= first) & (cell < end)).float()
        return inside / inside.sum(dim=1, keepdim=True)
