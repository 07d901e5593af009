"""Side by side: our batched k-means, scikit-learn and faiss (where installed), one process.

Run: python tests/benchmarks/kmeans.py. The tokens have the size of DINO ViT-S/8 at 224 pixels:
784 tokens of 384 features, K = 8, at most 20 iterations, one start each. One set of tokens is
drawn from groups; the other, where the photos are at hand, has the smooth outlines of photos.
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from sseg_core.pseudomask.kmeans import kmeans

B, N, FEATURES, K, ITERATIONS, ROUNDS = 128, 784, 384, 8, 20, 7
DATA = Path(os.environ.get("SSEG_DATA", Path(__file__).parents[2] / "../shared/data"))


def tokens_of_groups() -> torch.Tensor:
    """Return [B, N, F] tokens in 20 overlapping groups of unequal sizes."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(B, 20, FEATURES, generator=generator)
    sizes = torch.rand(B, 20, generator=generator) ** 2 + 0.01
    group_of_token = torch.multinomial(sizes, N, replacement=True, generator=generator)
    noise = torch.randn(B, N, FEATURES, generator=generator)
    return groups.gather(1, group_of_token[:, :, None].expand(-1, -1, FEATURES)) + noise


def tokens_of_photos() -> torch.Tensor:
    """Return [B, N, F] outputs of three random convolutions of photos at 224 pixels, and noise."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for path in sorted(DATA.glob("voc-mini/**/JPEGImages/*.jpg"))[:B]:
        with Image.open(path) as image:
            pictures.append(np.array(image.convert("RGB").resize((224, 224))))
    features = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    widths = (3, 32, 96, FEATURES)
    for layer in range(3):
        kernel = torch.randn(widths[layer + 1], widths[layer], 3, 3, generator=generator)
        features = F.conv2d(F.relu(features) if layer else features, kernel, stride=2, padding=1)
        features -= features.mean((0, 2, 3), keepdim=True)
        features /= features.std((0, 2, 3), keepdim=True)
    tokens = features.flatten(2).transpose(1, 2).contiguous()
    return tokens + 0.4 * torch.randn(tokens.shape, generator=generator)


def ours(tokens: torch.Tensor) -> float:
    """Return the mean inertia of all images at once."""
    return kmeans(tokens, K, range(len(tokens)), ITERATIONS).inertia.mean().item()


def scikit_learn(tokens: torch.Tensor) -> float:
    """Return the mean inertia, image by image."""
    from sklearn.cluster import KMeans

    inertia = [
        KMeans(K, n_init=1, max_iter=ITERATIONS, random_state=i).fit(image.numpy()).inertia_
        for i, image in enumerate(tokens)
    ]
    return float(np.mean(inertia))


def faiss(tokens: torch.Tensor) -> float:
    """Return the mean inertia, image by image."""
    import faiss

    inertia = []
    for i, image in enumerate(tokens):
        points: npt.NDArray[np.float32] = image.numpy()
        clustering = faiss.Kmeans(
            FEATURES, K, niter=ITERATIONS, seed=i + 1, min_points_per_centroid=1
        )
        clustering.train(points)
        inertia.append(clustering.index.search(points, 1)[0].sum())
    return float(np.mean(inertia))


def race(title: str, tokens: torch.Tensor) -> None:
    """Print the milliseconds per image (best of the rounds, taken in turns) and the inertia."""
    contestants: dict[str, Callable[[torch.Tensor], float]] = {"sseg": ours}
    if importlib.util.find_spec("faiss"):
        contestants["faiss"] = faiss
    contestants["scikit-learn"] = scikit_learn
    best = dict.fromkeys(contestants, float("inf"))
    inertia = {}
    for turn in range(ROUNDS):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            begin = time.perf_counter()
            inertia[name] = contestants[name](tokens)
            best[name] = min(best[name], time.perf_counter() - begin)
    print(f"\n{title}: {len(tokens)} images of {N} x {FEATURES} tokens, K = {K}")
    print(f"{'':14} {'ms/image':>9} {'inertia':>9} {'time of sseg':>13} {'inertia of sseg':>16}")
    for name, seconds in best.items():
        times, change = best["sseg"] / seconds, inertia["sseg"] / inertia[name] - 1
        print(
            f"{name:14} {1000 * seconds / len(tokens):9.2f} {inertia[name]:9.0f}"
            f" {times:12.2f}x {change:+16.2%}"
        )


def main() -> None:
    """Race on both sets of tokens."""
    warnings.simplefilter("ignore")  # scikit-learn says that it did not converge
    print(f"{torch.get_num_threads()} threads, best of {ROUNDS} rounds")
    race("Tokens drawn from groups", tokens_of_groups())
    if (DATA / "voc-mini").is_dir():
        race("Tokens of photos", tokens_of_photos())
    else:
        print("\nNo photos: set SSEG_DATA to the folder that holds voc-mini.")


if __name__ == "__main__":
    main()
