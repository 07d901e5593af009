"""Instances merged into label maps; whatever a file holds, nothing crashes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sseg_core.data.images import ImageError
from sseg_core.evaluation.benchmarks.instance_masks import Instance, merge_instances, parse_shape
from sseg_core.evaluation.examples import BACKGROUND, VOID, LabelMap

SIZE = (4, 6)


def merge(
    *shapes: tuple[int, Any], crowds: tuple[int, ...] = (), size: tuple[int, int] = SIZE
) -> LabelMap:
    """Merge segmentations of categories 1 to 9, whose class indices are 0 to 8."""
    instances = [
        Instance(category, number in crowds, parse_shape(segmentation))
        for number, (category, segmentation) in enumerate(shapes)
    ]
    return merge_instances("photo", size, instances, {i + 1: i for i in range(9)}, BACKGROUND)


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def as_runs(mask: np.ndarray) -> dict[str, Any]:
    """COCO's plain runs of a mask, worked out pixel by pixel."""
    counts, inside = [0], False
    for pixel in mask.T.ravel().tolist():
        if bool(pixel) != inside:
            inside = not inside
            counts.append(0)
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def test_outside_all_instances_is_what_the_benchmark_says() -> None:
    """Background or void; an image without instances is all of it."""
    assert merge_instances("a", (1, 2), [], {}, BACKGROUND).tolist() == [[-1, -1]]
    assert merge_instances("a", (1, 2), [], {}, VOID).tolist() == [[-2, -2]]
    assert merge_instances("a", (1, 2), [], {}, VOID).dtype == np.int16


def test_instances_of_a_class_become_one_label() -> None:
    """Two boxes of a category and one of another, side by side."""
    expected = [[2, 2, -1, 2, 0, 0]] * 2 + [[-1] * 6] * 2
    found = merge((3, box(0, 0, 2, 2)), (3, box(3, 0, 4, 2)), (1, box(4, 0, 6, 2)))
    assert found.tolist() == expected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_smaller_instance_lies_on_top(order: tuple[int, int]) -> None:
    """A cup stands on its table, whichever the file names first."""
    shapes = [(1, box(0, 0, 6, 4)), (2, box(1, 1, 3, 3))]
    found = merge(shapes[order[0]], shapes[order[1]])
    assert found[1:3, 1:3].tolist() == [[1, 1]] * 2
    assert (found == 0).sum() == 20


def test_of_equal_instances_the_later_lies_on_top() -> None:
    """The order of the file decides between equal areas."""
    assert merge((1, box(0, 0, 2, 2)), (2, box(0, 0, 2, 2)))[0, 0] == 1
    assert merge((2, box(0, 0, 2, 2)), (1, box(0, 0, 2, 2)))[0, 0] == 0


def test_a_crowd_shows_its_class_below_all_others() -> None:
    """Even where it is the smaller; outside the others its pixels are of its class."""
    crowd = np.zeros(SIZE, bool)
    crowd[0, :3] = True
    found = merge((1, as_runs(crowd)), (2, box(0, 0, 2, 4)), crowds=(0,))
    assert found[0].tolist() == [1, 1, 0, -1, -1, -1]


@given(st.lists(st.booleans(), min_size=24, max_size=24))
@settings(max_examples=50, deadline=None)
def test_runs_in_both_forms_give_the_mask(pixels: list[bool]) -> None:
    """Plain and compressed runs of any mask are drawn exactly."""
    mask = np.array(pixels).reshape(SIZE)
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    compressed = {"size": list(SIZE), "counts": packed["counts"].decode()}
    for segmentation in (as_runs(mask), compressed):
        assert (merge((1, segmentation)) == 0).tolist() == mask.tolist()


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-7, 14), st.floats(-5, 9)), min_size=3, max_size=7),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=100, deadline=None)
def test_outlines_are_drawn_as_pycocotools_draws_them(
    polygons: list[list[tuple[float, float]]],
) -> None:
    """Outlines in and around the image, of several parts; too far out is refused."""
    segmentation = [[number for corner in polygon for number in corner] for polygon in polygons]
    try:
        found = merge((1, segmentation))
    except ImageError as error:
        assert error.reason == "bad truth"  # noqa: PT017 - both outcomes are right
        return
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE)))
    assert (found == 0).tolist() == drawn.astype(bool).tolist()


NUMBER = st.one_of(st.floats(), st.integers(), st.sampled_from([1e300, -1e9, 2.0**31, 10**400]))
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.fixed_dictionaries({"size": inner, "counts": inner}),
        st.lists(st.lists(NUMBER, min_size=6, max_size=8), max_size=2),
        st.fixed_dictionaries(
            {"size": st.just([4, 6]), "counts": st.lists(st.integers(-30, 30), max_size=5)}
        ),
        st.fixed_dictionaries({"size": st.just([4, 6]), "counts": st.text("0P`oAn1", max_size=9)}),
    ),
    max_leaves=8,
)


@given(VALUE)
@settings(max_examples=300, deadline=None)
def test_whatever_a_segmentation_holds_is_a_label_map_or_bad_truth(value: Any) -> None:
    """No value of JSON gets past the checks to where memory is written."""
    try:
        assert merge((1, value)).shape == SIZE
    except ImageError as error:
        assert error.reason == "bad truth"  # noqa: PT017 - both outcomes are right


FAR = 18.5
"""Beyond twice the width."""


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        (None, "neither polygons nor runs"),
        ([], "neither polygons nor runs"),
        ({"size": [4, 6]}, "neither polygons nor runs"),
        ("outline", "neither polygons nor runs"),
        ([[0, 0, 3, 3]], "three corners"),
        ([[0, 0, 3, 0, 3, 3, 1]], "three corners"),
        ([box(0, 0, 2, 2)[0], []], "three corners"),
        ([[0, 0, 3, 0, float("nan"), 3]], "far outside or no number"),
        ([[0, 0, 3, 0, float("inf"), 3]], "far outside or no number"),
        ([[0, 0, FAR, 0, 3, 3]], "far outside or no number"),
        ([[0, 0, 3, 0, 3, -4.5]], "far outside or no number"),
        ([[0, 0, 6, 4, 0, 4] * 20], "longer than all pixels"),
        ({"size": [6, 4], "counts": [24]}, "not the size of the image"),
        ({"size": [4, 6], "counts": [23]}, "do not add up"),
        ({"size": [4, 6], "counts": [25]}, "do not add up"),
        ({"size": [4, 6], "counts": [30, -6]}, "do not add up"),
        ({"size": [4, 6], "counts": []}, "do not add up"),
        ({"size": [4, 6], "counts": "000000"}, "do not add up"),
        ({"size": [4, 6], "counts": "\u00ff"}, "not a character"),
    ],
)
def test_a_damaged_instance_is_bad_truth_of_its_image(segmentation: Any, problem: str) -> None:
    """The sentence names the image, the instance, and what is wrong."""
    through_json = json.loads(json.dumps(segmentation))
    with pytest.raises(ImageError, match=problem) as info:
        merge((1, box(0, 0, 2, 2)), (1, through_json))
    assert info.value.reason == "bad truth"
    assert info.value.message.startswith("The truth of photo has a damaged instance (number 2): ")


def test_an_image_beyond_the_limit_is_refused_before_it_is_drawn() -> None:
    """A file may say that a photo has any size."""
    with pytest.raises(ImageError, match="pixels"):
        merge((1, box(0, 0, 2, 2)), size=(10**9, 10**9))
