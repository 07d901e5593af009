"""Linear layers computed as convolutions: the same numbers, only where it pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sseg_core.models.linear import PointwiseLinear, use_pointwise


class _Convolutions(TorchDispatchMode):
    """Counts the convolutions that are computed while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def convolutions() -> Iterator[_Convolutions]:
    with _Convolutions() as counter:
        yield counter


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "out_features"),
    [((32, 49, 96), 96), ((2, 14, 14, 128), 192), ((1000, 128), 128), ((8191, 64), 48)],
)
def test_values_and_gradients_are_those_of_a_linear_layer(
    convolutions: _Convolutions, shape: tuple[int, ...], out_features: int, bias: bool
) -> None:
    """Any number of axes and rows, also a prime one, agrees with nn.Linear to rounding."""
    generator = torch.Generator().manual_seed(0)
    layer = PointwiseLinear(shape[-1], out_features, bias=bias)
    inputs = torch.randn(shape, generator=generator, requires_grad=True)
    output_gradient = torch.randn(*shape[:-1], out_features, generator=generator)
    tensors = (inputs, *layer.parameters())

    actual = layer(inputs)
    assert convolutions.count == 1
    expected = F.linear(inputs, layer.weight, layer.bias)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(actual, tensors, output_gradient),
        torch.autograd.grad(expected, tensors, output_gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)  # sums of 8191 products


def test_rows_that_are_not_contiguous_are_read_right() -> None:
    """A transposed input gives what its copy gives."""
    layer, inputs = PointwiseLinear(96, 96), torch.randn(96, 4000).T
    assert not inputs.is_contiguous()
    torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("inputs", "autocast"),
    [
        (torch.rand(10, 128), False),
        (torch.rand(0, 128), False),
        (torch.rand(2000, 128, dtype=torch.float64), False),
        (torch.rand(2000, 128, dtype=torch.bfloat16), False),
        (torch.rand(2000, 128), True),
    ],
    ids=["small", "empty", "double", "half", "autocast"],
)
def test_what_gains_nothing_stays_a_product(
    convolutions: _Convolutions, inputs: Tensor, autocast: bool
) -> None:
    """Little work, other precisions and autocast are left to nn.Linear, with its very numbers."""
    layer = PointwiseLinear(128, 128).to(inputs.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        actual, expected = layer(inputs), F.linear(inputs, layer.weight, layer.bias)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
    assert convolutions.count == 0


def test_an_exported_graph_has_a_linear_layer() -> None:
    """What another machine or program will run is the plain operator."""
    program = torch.export.export(PointwiseLinear(128, 128), (torch.rand(2000, 128),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"aten.linear.default"}


def test_it_compiles_to_one_graph() -> None:
    """A compiler meets no break and no convolution: it does with the product what it likes."""
    codes: list[str] = []

    def backend(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        codes.append(graph.code)
        return graph.forward

    layer, inputs = PointwiseLinear(128, 128), torch.rand(2000, 128)
    torch.compile(layer, backend=backend, fullgraph=True)(inputs)
    (code,) = codes
    assert "linear" in code
    assert "conv" not in code


def test_a_network_keeps_its_parameters_and_special_layers() -> None:
    """Plain linear layers change in place, all else stays, names and parameters too."""
    network = nn.ModuleDict({
        "plain": nn.Sequential(nn.Linear(4, 4), nn.GELU()),
        "attention": nn.MultiheadAttention(4, 2),
    })  # fmt: skip
    special = type(network["attention"].out_proj)
    before = dict(network.named_parameters())
    use_pointwise(network)
    assert type(network["plain"][0]) is PointwiseLinear
    assert type(network["attention"].out_proj) is special
    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
