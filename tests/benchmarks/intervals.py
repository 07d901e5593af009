"""How often an interval of mIoU by bootstrap holds what it should, by way of making it.

A population of made-up images stands for all photos there are; benchmarks are drawn from it. For
each benchmark 95 % intervals are made of the same 600 draws in three ways. "Covers" is the share
of the intervals that hold the mIoU of the population, "own" the share that hold the mIoU of the
benchmark itself.

    python tests/benchmarks/intervals.py
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sseg_core.evaluation.metrics.confusion import iou_of, mean_of_present

POPULATION, BENCHMARKS, DRAWS = 20_000, 100, 600
_Counts = npt.NDArray[np.int64]


def _population(
    rng: np.random.Generator, labels: int, per_image: int
) -> tuple[_Counts, _Counts, _Counts]:
    """Return right, true and predicted pixels [images, labels]; some labels are rare."""
    frequency = 1 / np.arange(1, labels + 1) ** 0.7
    frequency /= frequency.sum()
    quality = rng.uniform(0.2, 0.95, labels)
    right, truth, predicted = np.zeros((3, POPULATION, labels), np.int64)
    for image in range(POPULATION):
        for label in np.unique(rng.choice(labels, per_image, p=frequency)):
            pixels = int(rng.lognormal(7, 1))
            share = rng.beta(4 * quality[label], 4 * (1 - quality[label]))
            found = rng.binomial(pixels, share)
            truth[image, label] += pixels
            right[image, label] += found
            predicted[image, label] += found
            predicted[image, rng.choice(labels, p=frequency)] += pixels - found
    return right, truth, predicted


def _intervals(score: float, draws: npt.NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    low, high = np.quantile(draws, [0.025, 0.975])
    spread = 1.96 * float(draws.std())
    return {
        "standard (ours)": (score - spread, score + spread),
        "percentile": (low, high),
        "basic": (2 * score - high, 2 * score - low),
    }


def _measure(labels: int, images: int, per_image: int) -> None:
    rng = np.random.default_rng(0)
    counts = _population(rng, labels, per_image)
    everything = float(mean_of_present(iou_of(*(c.sum(axis=0) for c in counts))))
    covers: dict[str, list[bool]] = {}
    own: dict[str, list[bool]] = {}
    for _ in range(BENCHMARKS):
        chosen = rng.integers(POPULATION, size=images)
        drawn = [c[chosen] for c in counts]
        score = float(mean_of_present(iou_of(*(c.sum(axis=0) for c in drawn))))
        weights = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS)
        draws = mean_of_present(iou_of(*(weights @ c for c in drawn)))
        for name, (low, high) in _intervals(score, draws).items():
            covers.setdefault(name, []).append(low <= everything <= high)
            own.setdefault(name, []).append(low <= score <= high)
    for name, hits in covers.items():
        print(
            f"{labels:6} {images:6}  {name:16} {np.mean(hits):7.0%} {np.mean(own[name]):7.0%}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    print(f"{'labels':>6} {'images':>6}  {'interval':16} {'covers':>7} {'own':>7}")
    _measure(20, 100, 3)
    _measure(20, 1449, 3)
    _measure(100, 200, 5)
    _measure(500, 300, 5)


if __name__ == "__main__":
    main()
