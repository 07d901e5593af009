"""Linear layers that a CPU computes as convolutions, where that is faster."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_WORK = 2**23
"""Products of numbers below which a convolution does not pay off (our choice, not in the paper)."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

_PARTS = range(16, 33)
_LEAST_CELLS = 8


class PointwiseLinear(nn.Linear):
    """`nn.Linear`, in fp32 on a CPU by oneDNN instead of by the BLAS that torch comes with.

    torch gives fp32 products of matrices to its BLAS, but convolutions to oneDNN. A 1x1
    convolution is the same product, and oneDNN uses the widest vectors of any maker's CPU, which
    the BLAS (MKL) does not on AMD's: there a training step of Swin-S takes 0.7 of the time. Half
    precision goes to oneDNN anyway, and a GPU has no such difference: there, and in traced or
    compiled graphs, this is `nn.Linear`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return [..., out_features] from [..., in_features]."""
        rows = input.numel() // self.in_features
        if not _is_better_convolved(input, rows * self.weight.numel()):
            return super().forward(input)
        # Rows become cells of images in channels_last format, both ways without a copy.
        parts = _parts(rows)
        cells = input.reshape(parts, rows // parts, 1, self.in_features).permute(0, 3, 1, 2)
        products = F.conv2d(cells, self.weight[:, :, None, None], self.bias)
        return products.permute(0, 2, 3, 1).reshape(*input.shape[:-1], self.out_features)


@functools.cache
def _parts(rows: int) -> int:
    """Return as how many images the rows are convolved.

    With one thread, torch takes oneDNN for 16 or more only. Where rows do not divide so, it is one
    image, which is never slower than the BLAS.
    """
    fitting = (n for n in _PARTS if rows % n == 0 and rows >= _LEAST_CELLS * n)
    return next(fitting, 1)


def use_pointwise(network: nn.Module) -> None:
    """Let all plain `nn.Linear` in `network` compute as `PointwiseLinear`.

    Their parameters stay the same objects under the same names.
    """
    for module in network.modules():
        if type(module) is nn.Linear:
            # As torch.nn.utils.parametrize does: the class adds nothing to the state.
            module.__class__ = PointwiseLinear


def _is_better_convolved(input_: Tensor, work: int) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
        and input_.device.type == "cpu"
        and input_.dtype == torch.float32
        and work >= _LEAST_WORK
        and not torch.is_autocast_enabled("cpu")
        and _HAS_ONEDNN
    )
