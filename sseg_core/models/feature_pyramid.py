"""A pyramid of a plain ViT's tokens: four maps of one size become maps of four sizes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor, nn

SCALES = (Fraction(4), Fraction(2), Fraction(1), Fraction(1, 2))
"""How much finer than the tokens each level of the pyramid is."""


class FeaturePyramid(nn.Module):
    """The pyramid that BEiT puts behind a ViT (S-Seg App. A.2 follows it), finest level first.

    The maps of the earliest block get four times as fine, by two transposed convolutions; those of
    the second twice, by one; the third stay as they are, and the last get half as fine. The weights
    start as torch draws them, as BEiT's do. BEiT leaves out a factor of two for patches of 8
    pixels; here the factors are the same for all (our choice, not in the paper).

    Args:
        channels: channels of each of the four maps, which they keep.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, _, _ = channels
        self.four_times = nn.Sequential(
            _doubling(first), nn.BatchNorm2d(first), nn.GELU(), _doubling(first)
        )
        self.twice = _doubling(second)
        self.halved = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the maps at four sizes.

        Args:
            levels: four [B, C, h, w] maps, that of the earliest block first; h and w are even.

        Returns:
            The same with 4 h, 2 h, h and h / 2 rows, and as many times the columns.
        """
        first, second, third, last = levels
        return self.four_times(first), self.twice(second), third, self.halved(last)


def _doubling(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
