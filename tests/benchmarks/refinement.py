"""Edges that follow the photo: PAMR beside a guided filter, on pseudo-masks told their classes.

    python tests/benchmarks/refinement.py DATA_DIR [--features texture lab] [--split val]

DATA_DIR holds `voc-mini/VOC2012`, a part of Pascal VOC 2012 with its layout. The segments of each
photo come from `sseg pseudomask`'s generator, on its grid of 64 x 64. They are brought to the grid
of a network's masks, 112 cells on the short side, where both refinements work on one-hot maps; then
the usual combination brings them to the pixels, and each segment is told its majority class, as by
`sseg eval --model oracle:FEATURES`. So a score tells how well the borders lie.

The photos are few and some classes are frequent among them: the scores compare methods on the same
photos, and are none of VOC's. Times are of the refinement of a photo alone, of 8 maps.

The guided filter (He et al., TPAMI 2013) is kornia's, guided by colours. At the pixels, where it
gets maps that are already stretched, its means are those of every fourth pixel (He and Sun, 2015).
A last table has the time of both for the 64 masks of the paper's network.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import guided_blur
from torch import Tensor

from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.data.images import RGBImage
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.evaluator import evaluate
from sseg_core.evaluation.examples import Example, LabelMap
from sseg_core.evaluation.rivals.oracle import majority_labels, square_images
from sseg_core.inference.combine import best_of_windows
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.pamr import refine
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.windows import Box, Window
from sseg_core.pseudomask.generator import PseudoMaskGenerator

SIDE = 112
CPU = torch.device("cpu")

Segments = Callable[[Tensor, RGBImage], np.ndarray]
"""Turns [K, s, s] one-hot maps of a photo into an [H, W] or coarser map of segment numbers."""


def as_they_are(maps_Kss: Tensor, photo: RGBImage) -> np.ndarray:
    """The oracle of Table 1: each pixel in the segment of its cell."""
    return maps_Kss.argmax(dim=0).numpy()


class OnTheGrid:
    """Refines maps on the grid of the masks, and interpolates the result."""

    def __init__(self, refinement: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self.refinement = refinement
        self.seconds = 0.0

    def __call__(self, maps_Kss: Tensor, photo: RGBImage) -> np.ndarray:
        """Return the best of the refined maps at every pixel."""
        colours = _as_tensor(at_short_side(photo, SIDE))
        maps = _stretched(maps_Kss, colours.shape[1:])
        begin = time.perf_counter()
        if self.refinement is not None:
            maps = self.refinement(maps, colours)
        self.seconds += time.perf_counter() - begin
        h, w = maps.shape[1:]
        masks = WindowMasks(
            maps, torch.eye(len(maps)), Window(Box(0, 0, h, w), (h, w)), 1, are_weights=True
        )
        return best_of_windows([masks], photo.shape[:2]).classes.numpy()


class AtThePixels:
    """Refines maps that are stretched to the photo, by the photo's own pixels."""

    def __init__(self, radius: int, epsilon: float) -> None:
        self.options = radius, epsilon
        self.seconds = 0.0

    def __call__(self, maps_Kss: Tensor, photo: RGBImage) -> np.ndarray:
        """Return the best of the refined maps at every pixel."""
        colours = _as_tensor(photo)
        maps = _stretched(maps_Kss, colours.shape[1:])
        begin = time.perf_counter()
        maps = guided(*self.options, subsample=4)(maps, colours)
        self.seconds += time.perf_counter() - begin
        return maps.argmax(dim=0).numpy()


def guided(radius: int, epsilon: float, subsample: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a guided filter for maps [K, h, w] and colours [3, h, w] in [0, 1]."""

    def refinement(maps: Tensor, colours: Tensor) -> Tensor:
        filtered: Tensor = guided_blur(
            colours[None],
            maps[None],
            2 * radius + 1,
            epsilon,
            "replicate",
            subsample,
            separable=True,
        )[0]
        return filtered

    return refinement


def methods() -> dict[str, Segments]:
    """Return what is compared, by name."""
    grid = {
        f"guided r={radius} eps={epsilon:g}": OnTheGrid(guided(radius, epsilon))
        for radius in (4, 8, 16)
        for epsilon in (1e-4, 1e-3)
    }
    pixels = {
        f"guided at the pixels r={radius} eps={epsilon:g}": AtThePixels(radius, epsilon)
        for radius in (16, 32)
        for epsilon in (1e-4, 1e-3)
    }
    return {
        "as they are": as_they_are,
        "interpolated": OnTheGrid(None),
        "PAMR": OnTheGrid(refine),
        **grid,
        **pixels,
    }


def scores(features: str, data: Path, split: str, limit: int | None) -> None:
    """Print mIoU, boundary F and time of every method for one kind of pseudo-masks."""
    config = PseudomaskConfig(features=features)
    generator = PseudoMaskGenerator(config, CPU)
    root = str(data / "voc-mini/VOC2012")
    ask = EvalConfig(benchmark="voc2012", root=root, split=split, limit=limit)
    benchmark = open_benchmark(ask, write=False)
    kept: dict[str, Tensor] = {}

    def of(method: Segments) -> Callable[[Sequence[Example]], list[Prediction]]:
        def predict(examples: Sequence[Example]) -> list[Prediction]:
            return [Prediction(_told(method, example)) for example in examples]

        return predict

    def _told(method: Segments, example: Example) -> LabelMap:
        if example.key not in kept:
            square = square_images([example.image], config.image_size, CPU)
            segments = generator(square, [example.key])[0].long()
            kept[example.key] = F.one_hot(segments).permute(2, 0, 1).float()
        segments = method(kept[example.key], example.image)
        return majority_labels(segments, example.truth, len(benchmark.class_names))

    print(f"\n{features}: {len(benchmark)} photos of {split}, {torch.get_num_threads()} threads")
    for name, method in methods().items():
        result = evaluate(benchmark, of(method))
        images = [result.per_image[key] for key in result.per_image.keys]
        boundary = np.nanmean([image.boundary for image in images])
        seconds = getattr(method, "seconds", 0.0)
        print(
            f"{name:36} mIoU {result.confusion.compute().miou:5.2f}  boundary F "
            f"{100 * boundary:5.2f}  {1000 * seconds / len(benchmark):7.1f} ms"
        )


def times() -> None:
    """Print what 64 masks on a grid of 112 x 149 cost, the best of five rounds in turn."""
    torch.manual_seed(0)
    maps, colours = torch.rand(64, SIDE, 149).softmax(dim=0), torch.rand(3, SIDE, 149)
    ways = {"PAMR": refine, "guided r=4": guided(4, 1e-3), "guided r=16": guided(16, 1e-3)}
    best = dict.fromkeys(ways, math.inf)
    for _ in range(5):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(maps, colours)
            best[name] = min(best[name], time.perf_counter() - begin)
    print("\n64 masks, 112 x 149")
    for name, seconds in best.items():
        print(f"{name:36} {1000 * seconds:7.1f} ms")


def _as_tensor(image: RGBImage) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def _stretched(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[None], tuple(size), mode="bilinear")[0]


def main() -> None:
    """Print a table for each kind of features, and the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", nargs="+", default=["texture", "lab"])
    parser.add_argument("--split", default="val", help="val or train")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    with torch.inference_mode():
        for features in options.features:
            scores(features, options.data, options.split, options.limit)
        times()


if __name__ == "__main__":
    main()
