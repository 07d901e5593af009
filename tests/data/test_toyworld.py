"""The toy world: scenes, their truth and their captions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sseg_core.data.toyworld import (
    BACKGROUNDS,
    CLASSES,
    OBJECTS,
    VISIBLE_SHARE,
    Scene,
    render_scene,
    visible_classes,
)
from sseg_core.data.toyworld_objects import THINGS, draw_object


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, index, 64) for index in range(200)]


def test_there_are_eight_objects_and_six_backgrounds() -> None:
    """The classes are the objects and then the backgrounds, each once."""
    assert (len(OBJECTS), len(BACKGROUNDS)) == (8, 6)
    assert (*OBJECTS, *BACKGROUNDS) == CLASSES
    assert len(set(CLASSES)) == len(CLASSES)


@pytest.mark.parametrize("size", [32, 63, 96, 512])
def test_a_scene_has_the_size_that_was_asked_for(size: int) -> None:
    """Image and truth are square, of 8-bit values, and every pixel has a class."""
    scene = render_scene(3, 5, size)
    assert ((size, size, 3), np.uint8) == (scene.image.shape, scene.image.dtype)
    assert ((size, size), np.uint8) == (scene.label_map.shape, scene.label_map.dtype)
    assert scene.label_map.max() < len(CLASSES)
    assert 2 <= len(scene.captions) <= 3


def test_a_scene_is_a_function_of_its_numbers() -> None:
    """The same seed, index, size and split give the same scene, whatever came before."""
    first = render_scene(7, 3, 48)
    render_scene(7, 4, 48)
    again = render_scene(7, 3, 48)
    assert first.captions == again.captions
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label_map, again.label_map)


def test_no_two_scenes_are_alike() -> None:
    """Other indices, other seeds and the held-out split give other pictures."""
    pictures = {
        render_scene(seed, index, 32, split).image.tobytes()
        for seed in range(3)
        for index in range(20)
        for split in ("train", "val")
    }
    assert len(pictures) == 3 * 20 * 2


def test_the_size_does_not_change_the_composition() -> None:
    """A scene drawn at twice the size has the same classes in the same places."""
    for index in range(20):
        small = render_scene(0, index, 64).label_map
        large = render_scene(0, index, 128).label_map[::2, ::2]
        assert np.mean(small == large) > 0.95


def test_captions_name_exactly_what_is_visible(scenes: list[Scene]) -> None:
    """Each sentence holds the word of every class with a share of the pixels, and no other."""
    for scene in scenes:
        visible = set(visible_classes(scene.label_map))
        for caption in scene.captions:
            words = set(re.findall(r"[a-z]+", caption.lower()))
            assert visible == words & {*CLASSES}, caption
            assert caption[0].isupper()
            assert caption.endswith(".")


def test_visible_means_one_percent() -> None:
    """A class is visible from `VISIBLE_SHARE` of the pixels on."""
    label_map = np.full((20, 20), CLASSES.index("sky"), np.uint8)
    label_map[0, :4] = CLASSES.index("sun")
    label_map[1, :3] = CLASSES.index("star")
    assert VISIBLE_SHARE == 0.01
    assert visible_classes(label_map) == ("sun", "sky")


def test_every_class_is_common(scenes: list[Scene]) -> None:
    """Each class is visible in a tenth of the scenes; nearly all scenes have an object."""
    seen = [visible_classes(scene.label_map) for scene in scenes]
    for name in CLASSES:
        assert sum(name in visible for visible in seen) >= 20, name
    assert all(set(visible) & {*BACKGROUNDS} for visible in seen)
    assert sum(bool(set(visible) & {*OBJECTS}) for visible in seen) >= 195


def test_no_context_gives_a_class_away(scenes: list[Scene]) -> None:
    """No object is seen on one ground only, so that its own look must be learned."""
    for name in OBJECTS:
        grounds = {
            ground
            for scene in scenes
            if name in (visible := visible_classes(scene.label_map)) and "sky" not in visible
            for ground in visible
            if ground in BACKGROUNDS
        }
        assert len(grounds) >= 2, name


@pytest.mark.parametrize("name", OBJECTS)
def test_a_drawing_shows_its_colour_and_stays_inside(name: str) -> None:
    """An object fills a good part of its square, mostly opaque, near its colour family."""
    patch = draw_object(name, np.random.default_rng(0), 64)
    opaque = patch[..., 3] > 127
    assert 0.2 < opaque.mean() < 0.8
    near = np.abs(patch[..., :3] - THINGS[name].color).max(axis=-1) < 60
    assert near[opaque].mean() > 0.35


def test_individuals_of_a_class_differ() -> None:
    """Two draws of a class differ in colour, pose or details."""
    rng = np.random.default_rng(0)
    for name in OBJECTS:
        assert np.any(draw_object(name, rng, 32) != draw_object(name, rng, 32))
