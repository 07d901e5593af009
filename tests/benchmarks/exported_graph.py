"""The image graph of `sseg export` in onnxruntime beside eager torch, on the CPU.

    python tests/benchmarks/exported_graph.py [--recipe paper] [--size 448] [--classes 21]
    python tests/benchmarks/exported_graph.py --recipe tiny --size 128 --precision fp32 fp16 int8

Random weights; one image at a time, the image half and the class probabilities of its masks, as in
`sseg predict`. All sides have the same number of threads and take turns in one process; medians
count. `of torch` is the time as a part of torch's. The graph is not called onnx.py: that name would
hide the package from a program in this folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F

from sseg_core.export.graphs import ImageGraph, write_word_graphs
from sseg_core.export.precision import Precision, convert
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.models.build import build_model
from sseg_core.recipes import recipe

Side = Callable[[], object]


def sides(args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    """Return what is timed, by name, torch first; print what writing the graphs took."""
    model = build_model(recipe(args.recipe).model).eval()
    image = torch.rand(1, 3, args.size, args.size * 4 // 3)
    words = F.normalize(torch.randn(args.classes, model.config.embed_dim), dim=1)
    scale = model.similarity_scale().detach()
    eager = ImageGraph(model)
    start = time.perf_counter()
    write_word_graphs(model, folder / "fp32.onnx", folder / "text.onnx")
    print(f"export {time.perf_counter() - start:.1f} s")

    def with_torch() -> object:
        with torch.inference_mode():
            return eager(image, words, scale)

    inputs = {
        "images": image.numpy(),
        "text_features": words.numpy(),
        "logit_scale": scale.numpy(),
    }

    def with_graph(precision: Precision) -> Side:
        path = folder / f"image-{precision}.onnx"
        shutil.copyfile(folder / "fp32.onnx", path)
        convert(path, precision)
        session = OnnxSession(path, "cpu")
        print(f"{precision} {path.stat().st_size / 1e6:.1f} MB")
        return lambda: session(inputs, ["mask_logits", "class_probabilities"])

    return {"torch": with_torch, **{f"onnx {p}": with_graph(p) for p in args.precision}}


def measure(timed: dict[str, Side], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", choices=["paper", "tiny", "small"], default="paper")
    parser.add_argument("--size", type=int, default=448, help="short side; the long is 4/3 of it")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--precision", choices=get_args(Precision), nargs="+", default=["fp32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # which the sessions of sseg follow
    with tempfile.TemporaryDirectory() as folder:
        medians = measure(sides(args, Path(folder)), args.repeats)
    print(f"{args.recipe}, {args.size} px, {args.classes} classes, {args.threads} threads")
    for name, seconds in medians.items():
        print(f"  {name:12}{seconds * 1e3:9.1f} ms{seconds / medians['torch']:8.2f} of torch")


if __name__ == "__main__":
    main()
