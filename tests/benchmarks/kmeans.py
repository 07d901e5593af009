"""Side by side: our batched k-means, scikit-learn and faiss (where installed), one process.

Run: python tests/benchmarks/kmeans.py. The tokens have the size of DINO ViT-S/8 at 224 pixels:
784 tokens of 384 features, K = 8, 20 iterations.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from sseg_core.pseudomask.kmeans import kmeans

B, N, F, K, ITERATIONS, ROUNDS = 128, 784, 384, 8, 20, 3


def make_tokens() -> torch.Tensor:
    """Return [B, N, F] tokens in 20 overlapping groups of unequal sizes."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(B, 20, F, generator=generator)
    sizes = torch.rand(B, 20, generator=generator) ** 2 + 0.01
    group_of_token = torch.multinomial(sizes, N, replacement=True, generator=generator)
    noise = torch.randn(B, N, F, generator=generator)
    return groups.gather(1, group_of_token[:, :, None].expand(-1, -1, F)) + noise


def ours(tokens: torch.Tensor) -> float:
    """Return the mean inertia of all images at once."""
    return kmeans(tokens, K, range(len(tokens)), ITERATIONS).inertia.mean().item()


def scikit_learn(tokens: torch.Tensor) -> float:
    """Return the mean inertia, image by image, one start each."""
    from sklearn.cluster import KMeans

    inertia = [
        KMeans(K, n_init=1, max_iter=ITERATIONS, random_state=i).fit(image.numpy()).inertia_
        for i, image in enumerate(tokens)
    ]
    return float(np.mean(inertia))


def faiss(tokens: torch.Tensor) -> float:
    """Return the mean inertia, image by image, one start each."""
    import faiss

    inertia = []
    for i, image in enumerate(tokens):
        points: npt.NDArray[np.float32] = image.numpy()
        clustering = faiss.Kmeans(F, K, niter=ITERATIONS, seed=i + 1, min_points_per_centroid=1)
        clustering.train(points)
        inertia.append(clustering.index.search(points, 1)[0].sum())
    return float(np.mean(inertia))


def main() -> None:
    """Print the milliseconds per image (best of the rounds, taken in turns) and the inertia."""
    warnings.simplefilter("ignore")  # scikit-learn says that it did not converge
    contestants: dict[str, Callable[[torch.Tensor], float]] = {
        "sseg": ours,
        "scikit-learn": scikit_learn,
    }
    if importlib.util.find_spec("faiss"):
        contestants["faiss"] = faiss
    tokens = make_tokens()
    best = dict.fromkeys(contestants, float("inf"))
    inertia = {}
    for _ in range(ROUNDS):
        for name, cluster in contestants.items():
            begin = time.perf_counter()
            inertia[name] = cluster(tokens)
            best[name] = min(best[name], time.perf_counter() - begin)
    print(f"{B} images of {N} x {F} tokens, K = {K}, {torch.get_num_threads()} threads")
    print(f"{'':14} {'ms/image':>9} {'inertia':>11}")
    for name, seconds in best.items():
        print(f"{name:14} {1000 * seconds / B:9.2f} {inertia[name]:11.0f}")


if __name__ == "__main__":
    main()
