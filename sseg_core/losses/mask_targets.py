"""From label maps to the binary masks that the network is trained on.

Shapes are in the legend of `structures.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sseg_core.structures import IGNORE_LABEL, MaskTargets


def mask_targets(label_maps_BHW: Tensor, size: tuple[int, int]) -> MaskTargets:
    """Split label maps into one binary mask per segment, on the mask grid (S-Seg Sec. 3.3.1).

    Each cell of the grid takes the label of the pixel at its centre. A segment that covers no
    centre is dropped, as is one that the random crop cut away; `IGNORE_LABEL` is no segment, and
    its cells are not valid. The masks of an image are in the order of their segment ids.

    How many masks there are decides the shape of the result, so the host must learn it: one
    device-to-host copy of [B, 256] flags, the only one here.

    Args:
        label_maps_BHW: [B, H, W] uint8 segment ids.
        size: (h, w) of the mask grid.
    """
    grid_BN = _at_cell_centres(label_maps_BHW, size).flatten(1)
    present = torch.zeros(len(grid_BN), 256, dtype=torch.bool, device=grid_BN.device)
    present.scatter_(1, grid_BN.long(), value=True)
    present[:, IGNORE_LABEL] = False
    present = present.cpu()
    image, label = present.nonzero(as_tuple=True)
    image, label = image.to(grid_BN.device), label.to(grid_BN.device, grid_BN.dtype)
    masks = grid_BN[image] == label[:, None]
    return MaskTargets(
        masks=masks.float().view(-1, *size),
        valid=(grid_BN != IGNORE_LABEL).float().view(-1, *size),
        counts=tuple(present.sum(1).tolist()),
    )


def _at_cell_centres(label_maps_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    _, H, W = label_maps_BHW.shape
    (h, w), device = size, label_maps_BHW.device
    rows = (2 * torch.arange(h, device=device) + 1) * H // (2 * h)
    columns = (2 * torch.arange(w, device=device) + 1) * W // (2 * w)
    return label_maps_BHW[:, rows[:, None], columns]
