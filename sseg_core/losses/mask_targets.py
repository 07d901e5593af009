"""From label maps to the binary masks that the network is trained on.

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sseg_core.structures import IGNORE_LABEL, MaskTargets


def mask_targets(label_maps_BHW: Tensor, size: tuple[int, int], num_segments: int) -> MaskTargets:
    """Split label maps into one binary mask per segment, on the mask grid (S-Seg Sec. 3.3.1).

    Each cell of the grid takes the label of the pixel at its centre. A segment that covers no
    centre is absent, as is one that the random crop cut away; `IGNORE_LABEL` is no segment, and
    its cells are not valid. Nothing here makes the host wait for the device.

    Args:
        label_maps_BHW: [B, H, W] uint8 segment ids, below `num_segments` or `IGNORE_LABEL`.
        size: (h, w) of the mask grid.
        num_segments: K, slots per image.
    """
    grid_BN = _at_cell_centres(label_maps_BHW, size).flatten(1)
    ids_K = torch.arange(num_segments, device=grid_BN.device, dtype=grid_BN.dtype)
    masks_BKN = grid_BN[:, None] == ids_K[:, None]
    return MaskTargets(
        masks=masks_BKN.float().view(*masks_BKN.shape[:2], *size),
        valid=(grid_BN != IGNORE_LABEL).float().view(-1, *size),
        present=masks_BKN.any(dim=2),
    )


def _at_cell_centres(label_maps_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    _, H, W = label_maps_BHW.shape
    (h, w), device = size, label_maps_BHW.device
    rows = (2 * torch.arange(h, device=device) + 1) * H // (2 * h)
    columns = (2 * torch.arange(w, device=device) + 1) * W // (2 * w)
    return label_maps_BHW[:, rows[:, None], columns]
