"""An exported student labels as the student that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sseg_core.errors import ConfigError
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.structures import BACKGROUND

Classes = Callable[[bool], Any]
Picture = Callable[..., np.ndarray]
NAMES = ("cat", "dog", "sky", "grass", "road")


def _pair(classes: Classes, background: bool) -> tuple[Segmenter, Segmenter]:
    made = classes(background)
    return Segmenter.load(str(made.folder), device="cpu"), made.network


def _same(one: Any, other: Any) -> None:
    assert one.class_names == other.class_names
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert (one.label_map == other.label_map).mean() > 0.999


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", [(40, 60), (1, 1), (123, 77)])
@pytest.mark.parametrize(
    "asked",
    [
        NAMES,
        ("grass", "cat"),
        ("sky",),
        ("meadow=grass|lawn", "DOG"),
        Vocabulary.of(NAMES[:2], with_background=False),
    ],
    ids=str,
)
def test_images_of_any_size_and_any_of_its_classes(
    classes: Classes, picture: Picture, background: bool, size: tuple[int, int], asked: Any
) -> None:
    """All classes, some in another order, a single one, by synonyms, and without background."""
    exported, network = _pair(classes, background)
    image = picture(*size)
    _same(exported.segment(image, asked), network.segment(image, asked))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"view": View(short_side=60, window=32, stride=20)},
        {"view": View(short_side=50, window=24, blend="taper", flip=True, scales=(1.0, 1.3))},
        {"view": View(min_share=0.25)},
    ],
    ids=str,
)
def test_views_and_thresholds(
    classes: Classes, picture: Picture, background: bool, options: dict[str, Any]
) -> None:
    """Windows, blending, mirror images, scales, and small classes left out."""
    exported, network = _pair(classes, background)
    image = picture(70, 97)
    result = exported.segment(image, NAMES, **options)
    _same(result, network.segment(image, NAMES, **options))
    assert len(np.unique(result.label_map)) > 1


def test_probabilities_of_every_class(classes: Classes, picture: Picture) -> None:
    """What is missing to 1 is background."""
    exported, network = _pair(classes, True)
    image = picture(33, 50)
    probabilities = exported.class_probabilities(image, NAMES)
    np.testing.assert_allclose(probabilities, network.class_probabilities(image, NAMES), atol=1e-5)
    background = exported.segment(image, NAMES).label_map == BACKGROUND
    assert 0 < background.mean() < 1
    assert (1 - probabilities.sum(axis=0))[background].min() > probabilities[
        :, background
    ].max() / 9


def test_images_in_a_batch_are_what_they_are_alone(classes: Classes, picture: Picture) -> None:
    """Three of one size and one of another."""
    exported, _ = _pair(classes, False)
    images = [picture(40, 50, seed) for seed in range(3)] + [picture(30, 20)]
    for together, image in zip(exported.segment_batch(images, NAMES), images, strict=True):
        _same(together, exported.segment(image, NAMES))


@pytest.mark.parametrize("background", [False, True])
def test_it_has_the_attributes_of_the_student(classes: Classes, background: bool) -> None:
    """Size, classes and background are read from the export."""
    exported, network = _pair(classes, background)
    for name in ("image_size", "template", "class_names", "tells_background"):
        assert getattr(exported, name) == getattr(network, name)
    assert exported.complete(View()) == network.complete(View())


def test_what_it_cannot_do_is_refused_as_the_student_refuses_it(
    classes: Classes, picture: Picture
) -> None:
    """Other classes, with a hint at its teacher; a template; and what needs torch."""
    exported, network = _pair(classes, False)
    errors = []
    for segmenter in (exported, network):
        with pytest.raises(ConfigError) as error:
            segmenter.check(("zebra",))
        errors.append(str(error.value))
    assert errors[0] == errors[1]
    assert "small-plus:v1 knows 5 classes" in errors[0]
    assert "small:v3 takes any words" in errors[0]
    with pytest.raises(ConfigError, match="has no meaning"):
        exported.template = "a {}"
    with pytest.raises(ConfigError, match="that needs torch"):
        exported.segment(picture(9, 9), NAMES, view=View(refine="pamr"))
