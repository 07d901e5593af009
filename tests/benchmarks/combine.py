"""Side by side: our label maps, and one full-size einsum with an argmax, in one process.

Run: python tests/benchmarks/combine.py. 64 smooth masks on a grid of 112 x 150 become a label map
of 768 x 1024 pixels. Peaky classes are those of a trained model, a mask being sure of one or two
words; nearly uniform ones those of an untrained one. The time is the best of the rounds, taken in
turns; the memory the largest growth of the process, inputs not counted (Linux). A last table has
our memory on a photo of 1536 x 2048 pixels, where the full scores of 1203 classes are 15 GB.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.inference import best_class
from sseg_core.inference.combine import MaskGrid, best_classes

Q, D = 64, 256
GRID, STRIDE = (112, 150), 4
SIZE, LARGE = (768, 1024), (1536, 2048)
SCALES = {"peaky": 30.0, "nearly uniform": 1.0}
ROUNDS = {21: 5, 171: 5, 1203: 2}

Contestant = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


def smooth_masks() -> Tensor:
    """Return [1, Q, h, w] logits: blobs of about a tenth of the image, one or two at a cell."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, Q, GRID[0] // 14, GRID[1] // 14, generator=generator)
    blobs = F.interpolate(coarse, GRID, mode="bicubic")
    blobs -= blobs.topk(2, dim=1).values.mean(dim=1, keepdim=True)
    return 8 * blobs + 0.3 * torch.randn(blobs.shape, generator=generator)


def classes_of_masks(num_classes: int, scale: float) -> Tensor:
    """Return p(c | q), [1, Q, C]: each mask is near the text of one class."""
    generator = torch.Generator().manual_seed(1)
    texts = F.normalize(torch.randn(num_classes, D, generator=generator), dim=1)
    noise = F.normalize(torch.randn(Q, D, generator=generator), dim=1)
    own = texts[torch.randint(num_classes, (Q,), generator=generator)]
    masks = F.normalize(0.5 * own + noise, dim=1)
    return (scale * masks @ texts.T).softmax(dim=-1)[None]


def full(logits: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """All scores at once, as MaskFormer's semantic inference."""
    masks = F.interpolate(logits, size, mode="bilinear").sigmoid_()
    return torch.einsum("bqc,bqhw->bchw", classes, masks).argmax(dim=1)


def ours(logits: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Tiles, and only classes that can win."""
    grid = MaskGrid((GRID[0] * STRIDE, GRID[1] * STRIDE), STRIDE)
    return best_classes(logits, classes, size, grid).classes


def tiles_only(logits: Tensor, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Tiles, and all classes."""
    few, best_class._FEW = best_class._FEW, 1 << 30
    try:
        return ours(logits, classes, size)
    finally:
        best_class._FEW = few


def megabytes_of(run: Callable[[], Tensor]) -> float:
    """Return by how much the process grows at most while it runs."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def race(num_classes: int, kind: str, logits: Tensor) -> None:
    """Print the times and the memory of the contestants on one set of classes."""
    classes = classes_of_masks(num_classes, SCALES[kind])
    contestants: dict[str, Contestant] = {"ours": ours, "unpruned": tiles_only, "full": full}
    best = dict.fromkeys(contestants, float("inf"))
    maps: dict[str, Tensor] = {}
    for turn in range(ROUNDS[num_classes]):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            begin = time.perf_counter()
            maps[name] = contestants[name](logits, classes, SIZE)
            best[name] = min(best[name], time.perf_counter() - begin)
    for name, contestant in contestants.items():
        memory = megabytes_of(lambda run=contestant: run(logits, classes, SIZE))
        differing = int((maps[name] != maps["full"]).sum())
        print(
            f"{num_classes:7} {kind:15} {name:9} {1000 * best[name]:8.0f} ms"
            f" {best['full'] / best[name]:7.1f}x {memory:8.0f} MB {differing:10}"
        )


def main() -> None:
    """Race for each number of classes, then measure the large photo."""
    logits = smooth_masks()
    print(f"{torch.get_num_threads()} threads; {Q} masks, {SIZE[0]} x {SIZE[1]} pixels")
    print(f"{'classes':>7} {'':15} {'':9} {'time':>11} {'speed':>8} {'memory':>11} other pixels")
    for num_classes in ROUNDS:
        for kind in SCALES:
            race(num_classes, kind, logits)
    print(f"\nOurs on {LARGE[0]} x {LARGE[1]} pixels")
    for num_classes in ROUNDS:
        classes = classes_of_masks(num_classes, SCALES["peaky"])
        begin = time.perf_counter()
        memory = megabytes_of(lambda p=classes: ours(logits, p, LARGE))
        print(f"{num_classes:7} classes {time.perf_counter() - begin:6.2f} s {memory:6.0f} MB")


if __name__ == "__main__":
    main()
