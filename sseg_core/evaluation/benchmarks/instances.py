"""Benchmarks whose truth is the instances of COCO or LVIS, merged by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.instance_file import InstanceFile, Photo, read_instances
from sseg_core.evaluation.benchmarks.instance_masks import merge_instances
from sseg_core.evaluation.benchmarks.layouts import no_such_split, truth_source
from sseg_core.evaluation.benchmarks.paired_files import read_photo
from sseg_core.evaluation.benchmarks.prepared import PreparedTruth, Truths
from sseg_core.evaluation.benchmarks.request import BenchmarkRequest
from sseg_core.evaluation.examples import BACKGROUND, Benchmark, LabelMap

_SPLITS = ("train", "val")
_RULE = "merged-1"
"""Changes with `merge_instances`, so that no older truth is taken for its work."""


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """A published set of instances.

    Attributes:
        name: of the benchmark.
        title: the same as people write it.
        annotations: finds the annotation file of a split below the root; None if it is not there.
        layout: the sentence that says what is expected where.
        class_names: turns the categories of a file into class names; raises DataError if they are
            not the benchmark's.
        places: where the photo may lie below the root, for the split.
        elsewhere: the label of pixels outside all instances.
        published: images of each split, where they are known.
    """

    name: str
    title: str
    annotations: Callable[[Path, str], Path | None]
    layout: str
    class_names: Callable[[Mapping[int, str], Path], tuple[str, ...]]
    places: Callable[[Photo, str], tuple[str, ...]]
    elsewhere: int
    published: Mapping[str, int]


def open_instances(kind: InstanceSet, request: BenchmarkRequest) -> Benchmark:
    """Return the benchmark; its truth is read from the store where it was prepared before.

    Raises:
        DataError: no such split, a file that is missing or unusable, or other classes.
        ArtifactError: the store cannot be written.
    """
    root, split = request.root, request.split
    if split not in _SPLITS:
        raise no_such_split(split, root, _SPLITS, kind.layout)
    path = kind.annotations(root, split)
    if path is None:
        shown = printable(root, None)
        raise DataError(f"There is no {kind.title} with the split {split} in {shown}.", kind.layout)
    prepared = PreparedTruth(request, kind.name, path, _RULE)
    truths = prepared.find()
    if truths is None:
        request.progress.message(f"reading {printable(path, None)}")
        truths = _truths(kind, read_instances(path, kind.layout), path, request)
        # Before the work: half a data set is seen at once.
        _photos(root, truths, path, kind.layout)
        truths = prepared.prepare(truths)
    photos = _photos(root, truths, path, kind.layout)
    return Benchmark(
        name=kind.name,
        class_names=truths.class_names,
        has_background=kind.elsewhere == BACKGROUND,
        keys=tuple(truths.images),
        image=partial(read_photo, photos.__getitem__),
        truth=truths.load,
        split=split,
        source=truth_source(
            f"instances of {path.name}, merged by class",
            found=truths.listed,
            published=kind.published.get(split),
        ),
    )


def _truths(kind: InstanceSet, file: InstanceFile, path: Path, request: BenchmarkRequest) -> Truths:
    class_names = kind.class_names(file.categories, path)
    label_of = {category: label for label, category in enumerate(file.categories)}
    images = {key: kind.places(photo, request.split) for key, photo in file.photos.items()}
    load = partial(_merged, file, label_of, kind.elsewhere)
    return Truths(class_names, images, len(images), load).first(request.limit)


def _merged(file: InstanceFile, label_of: Mapping[int, int], elsewhere: int, key: str) -> LabelMap:
    size, instances = file.photos[key].size, file.instances.get(key, ())
    return merge_instances(key, size, instances, label_of, elsewhere)


def _photos(root: Path, truths: Truths, listed_in: Path, layout: str) -> dict[str, Path]:
    """Return the photo of each key.

    Raises:
        DataError: photos are missing.
    """
    # Beside the annotations, above their folder, or in COCO's own: LVIS has none of its own.
    near = dict.fromkeys((listed_in.parent, listed_in.parent.parent, root, root / "coco"))
    homes = [home for home in near if home == root or root in home.parents]
    photos: dict[str, Path] = {}
    missing: list[str] = []
    for key, places in truths.images.items():
        paths = (home / place for home in homes for place in places)
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            missing.append(places[0])
        else:
            photos[key] = found
    if missing:
        others = f" and {len(missing) - 1:,} more are missing" if missing[1:] else " is missing"
        raise DataError(
            f"{printable(root / missing[0], None)}{others}, of {len(truths.images):,} photos that "
            f"{listed_in.name} lists.",
            layout,
        )
    return photos
