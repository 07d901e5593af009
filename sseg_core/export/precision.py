"""Smaller graphs: weights in half precision, or in bytes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sseg_core.errors import SsegError

Precision = Literal["fp32", "fp16", "int8"]

_BYTES = ("MatMul", "Gemm", "Gather")
"""What is stored in bytes: products of matrices, and the table of token embeddings. Convolutions
lose more (a tenth of the labels on the toy world), and onnxruntime runs them slower."""


def check_packages() -> None:
    """Raise SsegError unless what writes and runs graphs is installed."""
    for package in ("onnx", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            raise SsegError(
                f"sseg export needs {package}, which is not installed.",
                "Run: pip install 'sseg[export]'",
            ) from error


def convert(path: Path, precision: Precision) -> None:
    """Turn a graph in fp32 into one of another precision, in its place.

    Inputs and outputs stay float32. fp16 stores and computes in half precision; int8 quantises the
    inputs of matrix products as they come, one scale for each weight matrix.

    Args:
        path: of the graph.
        precision: fp32 leaves it as it is.
    """
    if precision == "fp32":
        return
    onnx: Any = import_module("onnx")
    with _silence(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder) / path.name
        if precision == "fp16":
            half = import_module("onnxruntime.transformers.float16")
            onnx.save(half.convert_float_to_float16(onnx.load(path), keep_io_types=True), target)
        else:
            quantization = import_module("onnxruntime.quantization")
            quantization.quantize_dynamic(path, target, op_types_to_quantize=list(_BYTES))
        target.replace(path)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the notes of the converters off the user's terminal."""
    import logging

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
