"""What a training step leaves for the log and for the guard."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepOutput:
    """What one step leaves; its tensors stay on the device.

    Attributes:
        scalars: `loss` and its terms by name, of this rank's part of the batch; their means over
            ranks are those of the whole batch.
        finite: [B] bool, whether what the network made of the sample are finite numbers.
        keys: the B sample keys of this rank.
    """

    scalars: dict[str, Tensor]
    finite: Tensor
    keys: tuple[str, ...]
