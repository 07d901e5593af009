"""The exported image graph in ONNX Runtime beside eager torch, on the CPU.

    python tests/benchmarks/onnx_runtime.py [--repeats 7]

The networks of recipes `paper` at 448 x 448 and `tiny` at 128 x 128, with random weights, one image
and 21 classes; the same number of threads. The sides take turns in one process and medians count.

torch runs twice: as our networks are, whose linear layers a CPU computes as convolutions where that
is faster (`models/linear.py`), and with torch's own linear layers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sseg_core.export.graphs import ImageGraph, write_word_graphs
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.models.build import build_model
from sseg_core.models.linear import PointwiseLinear
from sseg_core.recipes import recipe

CLASSES = 21

_REST = 0.3
"""Seconds between the sides: the threads of one still spin when the other begins."""


def main() -> None:
    """Print milliseconds of both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print(f"{torch.get_num_threads()} threads")
    for name, size in (("paper", 448), ("tiny", 128)):
        model = build_model(recipe(name).model).eval()
        graph = ImageGraph(model)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            image_path = Path(folder) / "image.onnx"
            start = time.perf_counter()
            write_word_graphs(model, image_path, Path(folder) / "text.onnx")
            written = time.perf_counter() - start
            session = OnnxSession(image_path, "cpu")
            images = torch.rand(1, 3, size, size)
            features = F.normalize(torch.randn(CLASSES, model.config.embed_dim), dim=1)
            scale = model.similarity_scale().clone()
            inputs = {
                "images": images.numpy(), "text_features": features.numpy(),
                "logit_scale": scale.numpy(),
            }  # fmt: skip
            times: dict[str, list[float]] = {"ours": [], "plain": [], "runtime": []}
            for _ in range(repeats + 1):
                for side, own in times.items():
                    _use_pointwise(model, pointwise=side == "ours")
                    time.sleep(_REST)
                    start = time.perf_counter()
                    if side == "runtime":
                        session(inputs, ["mask_logits", "class_probabilities"])
                    else:
                        graph(images, features, scale)
                    own.append(time.perf_counter() - start)
        ms = {side: 1000 * statistics.median(own[1:]) for side, own in times.items()}
        print(
            f"{name:6} {size:4} pixels: torch {ms['plain']:7.1f} ms, torch as in sseg "
            f"{ms['ours']:7.1f} ms, ONNX Runtime {ms['runtime']:7.1f} ms: "
            f"{ms['plain'] / ms['runtime']:.2f} and {ms['ours'] / ms['runtime']:.2f} times as "
            f"fast; written in {written:.0f} s"
        )


def _use_pointwise(model: nn.Module, *, pointwise: bool) -> None:
    for module in model.modules():
        if type(module) in {nn.Linear, PointwiseLinear}:
            module.__class__ = PointwiseLinear if pointwise else nn.Linear


if __name__ == "__main__":
    main()
