"""A benchmark of image files, each with a label image of the same key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sseg_core.data.images import RGBImage, read_image
from sseg_core.evaluation.benchmarks.label_images import LabelTable, label_table, read_label_image
from sseg_core.evaluation.benchmarks.layouts import KeyedFiles
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, Benchmark, LabelMap
from sseg_core.structures import MAX_PIXELS


def paired_files(
    request: BenchmarkRequest,
    *,
    name: str,
    class_names: Sequence[str],
    keys: Sequence[str],
    images: KeyedFiles,
    truths: KeyedFiles,
    labels: Mapping[int, int],
    source: str,
    read: Callable[[Path, LabelTable], LabelMap] = read_label_image,
) -> Benchmark:
    """Return the benchmark.

    Args:
        request: names the split and the limit.
        name: of the benchmark.
        class_names: in the order of the class indices.
        keys: of the whole split, each checked to have both files.
        images: where the images are.
        truths: where the label images are.
        labels: class index, `BACKGROUND` or `VOID` of each value of a label image; where one of
            them is `BACKGROUND`, the benchmark has background.
        source: what the truth was read from.
        read: reads a label image.
    """
    return Benchmark(
        name=name,
        class_names=tuple(class_names),
        has_background=BACKGROUND in labels.values(),
        keys=tuple(keys[: request.limit]),
        image=partial(read_photo, images.path),
        truth=partial(_read_truth, truths.path, read, label_table(labels)),
        split=request.split,
        source=source,
    )


def read_photo(path_of: Callable[[str], Path], key: str) -> RGBImage:
    """Return the image of a key, which must have been checked to name a file of the benchmark.

    Raises:
        ImageError: it cannot be read.
    """
    return read_image(path_of(key), MAX_PIXELS)


def _read_truth(
    path_of: Callable[[str], Path],
    read: Callable[[Path, LabelTable], LabelMap],
    table: LabelTable,
    key: str,
) -> LabelMap:
    return read(path_of(key), table)
