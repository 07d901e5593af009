"""Peak memory of a large image, from its file to all that `sseg predict` writes of it.

    python tests/benchmarks/large_image.py MODEL [--size 12000 9000] [--classes house,tree,...]

MODEL is a reference of `Segmenter.load`, such as the folder of a checkpoint. The image is a scene
of the toy world, enlarged and saved as JPEG by a process of its own. Another one segments it, draws
the overlay, makes the palette PNG, the run-length encoded masks and the polygons.
For each step there is the time, how large the process is after it and how large it was at most by
then (Linux). Of that the image takes 3 bytes a pixel, the label map 2 and the probabilities 4.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from sseg_core.data.toyworld import render_scene
from sseg_core.inference.render import palette_png
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View

CLASSES = "house,tree,boat,sky,grass,water,sand,car"

T = TypeVar("T")


def make(path: Path, size: tuple[int, int]) -> None:
    """Write the image."""
    scene = Image.fromarray(render_scene(0, 3, 1024, "val").image)
    scene.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def measure(path: Path, options: argparse.Namespace) -> None:
    """Print a row for each step."""
    folder = path.parent
    print(f"{'':28} {'s':>7} {'MB after':>9} {'MB peak':>9}")
    segmenter = step("load", lambda: Segmenter.load(options.model, device="cpu"))
    names = options.classes.split(",")
    view = View(window=options.window, blend=options.blend)
    result = step("segment", lambda: segmenter.segment(path, names, view=view))
    found = {name: f"{share:.3f}" for name, share in result.shares.items() if share > 0}
    step("overlay", lambda: result.overlay().save(folder / "overlay.png", compress_level=1))
    palette = folder / "labels.png"
    step("palette PNG", lambda: palette_png(result.label_map, names).save(palette))
    rle = step("run-length encoded masks", result.to_coco_rle)
    outlines = step("polygons", result.to_polygons)
    height, width = result.label_map.shape
    corners = sum(len(part) // 2 for parts in outlines.values() for part in parts)
    print(f"{width} x {height} pixels, {len(rle)} classes found, {corners} corners: {found}")


def step(name: str, work: Callable[[], T]) -> T:
    """Do some work and print what it took."""
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    after = pages * resource.getpagesize() / 2**20
    print(f"{name:28} {seconds:7.1f} {after:9.0f} {peak:9.0f}", flush=True)
    return result


def main() -> None:
    """Start the two processes, for one knows its own peak only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--size", type=int, nargs=2, default=[12_000, 9_000], help="width, height")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument("--window", type=int, help="side of the windows; default: the image whole")
    parser.add_argument("--blend", choices=("mean", "taper"), default="mean")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        kind, path = options.step[0], Path(options.step[1])
        if kind == "make":
            make(path, tuple(options.size))
        else:
            measure(path, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("make", "measure"):
            own = ["--step", kind, str(Path(folder) / "image.jpg")]
            subprocess.run([sys.executable, *sys.argv, *own], check=True)


if __name__ == "__main__":
    main()
