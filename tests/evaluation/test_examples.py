"""Image and truth of a benchmark are read apart, wherever its files come from."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.data.images import ImageError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.examples import Benchmark

PHOTO = np.zeros((2, 3, 3), np.uint8)
LABELS = np.array([[-1, 0, 1], [-2, 1, -1]], np.int16)


def test_an_image_and_a_truth_of_different_size_are_refused() -> None:
    """Both sizes are named, width first; a truth lying on its side is no exception."""
    benchmark = Benchmark("b", ("x", "y"), True, ("a",), lambda _: PHOTO, lambda _: LABELS)
    example = benchmark.load("a")
    assert (example.key, example.image is PHOTO, example.truth is LABELS) == ("a", True, True)
    turned = Benchmark("b", ("x", "y"), True, ("a",), lambda _: PHOTO, lambda _: LABELS.T)
    with pytest.raises(
        ImageError, match=r"The image a has a truth of 2 x 3 .* is 3 x 2 itself"
    ) as caught:
        turned.load("a")
    assert caught.value.reason == "bad truth"


def _folder(root: Path) -> str:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    Image.new("RGB", (3, 2)).save(root / "images/a.JPG")
    Image.fromarray(np.array([[0, 1, 255], [1, 1, 0]], np.uint8)).save(root / "masks/a.png")
    return str(root)


def _expect_the_same_after_pickling(benchmark: Benchmark) -> None:
    image, truth = pickle.loads(pickle.dumps((benchmark.image, benchmark.truth)))
    example = benchmark.load(benchmark.keys[0])
    assert np.array_equal(image(example.key), example.image)
    assert np.array_equal(truth(example.key), example.truth)


@pytest.mark.parametrize("name", ["toyworld", "folder"])
def test_a_loader_process_reads_the_same(tmp_path: Path, name: str) -> None:
    """Image and truth cross the border of a process by pickling."""
    config = EvalConfig(benchmark=name, limit=1)
    if name == "folder":
        config = EvalConfig(benchmark=f"folder:{_folder(tmp_path / 'f')}")
    _expect_the_same_after_pickling(open_benchmark(config))


@pytest.mark.parametrize(
    ("name", "folder"),
    [("voc2012", "voc-mini"), ("coco-object", "coco-mini"), ("lvis-v0.5", "lvis-mini")],
)
@pytest.mark.parametrize("write", [True, False])
def test_a_loader_process_reads_the_same_photos(
    tmp_path: Path, real_data: Path, name: str, folder: str, write: bool
) -> None:
    """Label images, and instances kept in the store or merged when they are asked for."""
    config = EvalConfig(benchmark=name, root=str(real_data / folder), limit=1)
    benchmark = open_benchmark(config, ArtifactStore(tmp_path), write=write)
    _expect_the_same_after_pickling(benchmark)


def test_the_image_is_read_without_its_truth(tmp_path: Path) -> None:
    """Also where the label image has gone or is damaged since the benchmark was opened."""
    benchmark = open_benchmark(EvalConfig(benchmark=f"folder:{_folder(tmp_path / 'f')}"))
    (tmp_path / "f/masks/a.png").write_bytes(b"damaged")
    assert benchmark.image("a").shape == (2, 3, 3)
    with pytest.raises(ImageError, match="no readable PNG"):
        benchmark.load("a")
