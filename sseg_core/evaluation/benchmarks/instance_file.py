"""The annotation file of COCO and LVIS: images, categories, and the instances in the images."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sseg_core.errors import DataError, printable
from sseg_core.evaluation.benchmarks.instance_masks import Instance, parse_shape

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Photo:
    """One image of the file.

    Attributes:
        size: height and width.
        folder: where it is on COCO's server, such as val2017; empty where the file is silent.
        names: of its file; LVIS v0.5 gives two.
    """

    size: tuple[int, int]
    folder: str
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """What an annotation file says.

    Attributes:
        categories: the name of each category by its number, in ascending order.
        photos: by key, in the order of the keys.
        instances: by key, in the order of the file.
    """

    categories: Mapping[int, str]
    photos: Mapping[str, Photo]
    instances: Mapping[str, Sequence[Instance]]


def read_instances(path: Path, hint: str) -> InstanceFile:
    """Read an annotation file; a damaged segmentation is found when it is drawn.

    Args:
        path: of the JSON file.
        hint: what an error advises.

    Raises:
        DataError: the file is no such file, ends early, or contradicts itself.
    """

    def refuse(problem: str) -> DataError:
        return DataError(f"{printable(path, None)} {problem}.", hint)

    try:
        data = json.loads(path.read_bytes(), object_hook=_compact)
        entries = [(_whole(entry["id"]), _photo(entry)) for entry in data["images"]]
        categories = [(_whole(entry["id"]), _text(entry["name"])) for entry in data["categories"]]
        annotations = data["annotations"]
        if not isinstance(annotations, list):
            raise TypeError("annotations is no list")
        malformed = next((a for a in annotations if not isinstance(a, _Annotation)), None)
        if malformed is not None:
            raise TypeError("an annotation lacks a field")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refuse("is not a readable annotation file of instances") from error

    if not entries:
        raise refuse("lists no image")
    for what, numbers in (
        ("the image number", [number for number, _ in entries]),
        ("the image", [photo.names[0] for _, photo in entries]),
        ("the category number", [number for number, _ in categories]),
        ("the category", [name for _, name in categories]),
    ):
        if (twice := _duplicate(numbers)) is not None:
            raise refuse(f"lists {what} {printable(twice)} twice")
    known = dict(categories)
    key_of = {number: Path(photo.names[0]).stem for number, photo in entries}
    instances: defaultdict[str, list[Instance]] = defaultdict(list)
    for annotation in annotations:
        if annotation.image not in key_of:
            raise refuse(f"has an instance in the image {annotation.image}, which it does not list")
        if annotation.instance.category not in known:
            category = annotation.instance.category
            raise refuse(f"has an instance of the category {category}, which it does not list")
        instances[key_of[annotation.image]].append(annotation.instance)
    photos = {key_of[number]: photo for number, photo in entries}
    if len(photos) < len(entries):
        raise refuse("lists two images that differ in their endings alone")
    return InstanceFile(
        dict(sorted(categories)), {key: photos[key] for key in sorted(photos)}, instances
    )


@dataclass(frozen=True, slots=True)
class _Annotation:
    image: int
    instance: Instance


def _compact(value: dict[str, Any]) -> Any:
    """Turn an annotation into its few bytes as soon as it is parsed: COCO has a million."""
    if "segmentation" not in value or "category_id" not in value:
        return value
    shape = parse_shape(value["segmentation"])
    crowd = value.get("iscrowd", 0) == 1  # LVIS has no crowds
    instance = Instance(_whole(value["category_id"]), crowd, shape)
    return _Annotation(_whole(value["image_id"]), instance)


def _photo(entry: Mapping[str, Any]) -> Photo:
    """Return an image's entry; COCO has `file_name`, LVIS v1 `coco_url`, v0.5 both."""
    folder, names = "", []
    if "coco_url" in entry:
        folder, name = entry["coco_url"].split("/")[-2:]
        names.append(name)
    if "file_name" in entry:
        names.append(entry["file_name"])
    for part in (*names, *([folder] if folder else [])):
        if not _SAFE.fullmatch(part):
            raise ValueError("no name of a file")
    size = (_whole(entry["height"]), _whole(entry["width"]))
    if not names or min(size) < 1:
        raise ValueError("no image")
    return Photo(size, folder, tuple(dict.fromkeys(names)))


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise TypeError("not a name")
    return value


def _duplicate(values: Sequence[int] | Sequence[str]) -> int | str | None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
