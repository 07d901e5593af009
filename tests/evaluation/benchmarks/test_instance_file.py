"""The annotation file of COCO and LVIS: read, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.instance_file import Photo, read_instances

POLYGON = [[0, 0, 2, 0, 2, 2]]
CONTENT: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 7, "height": 4, "width": 6, "file_name": "b.jpg"},
        {"id": 3, "height": 5, "width": 5, "coco_url": "http://x/val2017/a.jpg"},
        {
            "id": 5,
            "height": 1,
            "width": 2,
            "coco_url": "http://x/train2017/c.jpg",
            "file_name": "COCO_c.jpg",
        },
    ],
    "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "iscrowd": 1, "segmentation": POLYGON},
        {"id": 2, "image_id": 7, "category_id": 2, "segmentation": 5},
    ],
}


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_images_categories_and_instances_are_read(tmp_path: Path) -> None:
    """Keys are sorted, categories by number, instances as in the file."""
    read = read_instances(write(tmp_path, CONTENT), "hint")
    assert list(read.categories.items()) == [(2, "dog"), (9, "cat")]
    assert list(read.photos.items()) == [
        ("a", Photo((5, 5), "val2017", ("a.jpg",))),
        ("b", Photo((4, 6), "", ("b.jpg",))),
        ("c", Photo((1, 2), "train2017", ("c.jpg", "COCO_c.jpg"))),
    ]
    assert list(read.instances) == ["b"]
    first, second = read.instances["b"]
    assert (first.category, first.crowd, second.category, second.crowd) == (9, True, 2, False)
    assert second.shape is None


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The content with one value replaced, or added at the end of its list."""
    content = copy.deepcopy(CONTENT)
    inner: Any = content
    for step in path[:-1]:
        inner = inner[step]
    if isinstance(inner, list) and path[-1] == len(inner):
        inner.append(to)
    else:
        inner[path[-1]] = to
    return content


UNREADABLE = "is not a readable annotation file"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", UNREADABLE),
        (json.dumps(CONTENT)[:-40], UNREADABLE),
        ("[" * 100_000, UNREADABLE),
        ("[]", UNREADABLE),
        ("null", UNREADABLE),
        ({"images": CONTENT["images"]}, UNREADABLE),
        (changed("annotations", to={}), UNREADABLE),
        (changed("annotations", 0, to={"id": 1}), UNREADABLE),
        (changed("annotations", 0, to=[]), UNREADABLE),
        (changed("annotations", 0, "category_id", to="9"), UNREADABLE),
        (changed("annotations", 0, "image_id", to=[7]), UNREADABLE),
        (changed("images", 0, "id", to="7"), UNREADABLE),
        (changed("images", 0, "height", to=0), UNREADABLE),
        (changed("images", 0, "width", to=6.5), UNREADABLE),
        (changed("images", 0, "file_name", to="../b.jpg"), UNREADABLE),
        (changed("images", 0, "file_name", to="..jpg"), UNREADABLE),
        (changed("images", 0, "file_name", to="a\\b.jpg"), UNREADABLE),
        (changed("images", 0, "file_name", to="/etc/passwd"), UNREADABLE),
        (changed("images", 0, "file_name", to=None), UNREADABLE),
        (changed("images", 1, "coco_url", to="http://../a.jpg"), UNREADABLE),
        (changed("images", 1, "coco_url", to="a.jpg"), UNREADABLE),
        (changed("categories", 0, "name", to=""), UNREADABLE),
        (changed("categories", 0, "name", to="\x1b[2J"), UNREADABLE),
        (changed("images", to=[]), "lists no image"),
        (changed("images", 0, "id", to=3), "lists the image number 3 twice"),
        (changed("images", 0, "file_name", to="a.jpg"), "lists the image a.jpg twice"),
        (changed("images", 0, "file_name", to="a.png"), "differ in their endings alone"),
        (changed("categories", 0, "id", to=2), "lists the category number 2 twice"),
        (changed("categories", 0, "name", to="dog"), "lists the category dog twice"),
        (changed("annotations", 0, "image_id", to=8), "in the image 8, which it does not list"),
        (changed("annotations", 0, "category_id", to=1), "category 1, which it does not list"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, content: Any, problem: str
) -> None:
    """It names the file and carries the layout that is expected."""
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=problem) as info:
        read_instances(path, "the layout")
    assert str(path) in info.value.message
    assert info.value.hint == "the layout"
