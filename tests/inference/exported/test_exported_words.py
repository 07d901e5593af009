"""An exported network segments by any words as the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sseg_core.errors import ConfigError
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary

Picture = Callable[..., np.ndarray]
WORDS = ("tiger", "minion", "house", "sky", "tree", "red car")
WINDOWS = View(short_side=60, window=32, stride=20)


@pytest.fixture(scope="module")
def exported(words: Any) -> Segmenter:
    return Segmenter.load(str(words.folder), device="cpu")


def _same(one: Any, other: Any) -> None:
    """Probabilities within 1e-4, and 99.9 % of the labels."""
    assert one.class_names == other.class_names
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert (one.label_map == other.label_map).mean() > 0.999


@pytest.mark.parametrize("size", [(40, 60), (61, 43), (1, 1), (2, 90), (150, 151)])
@pytest.mark.parametrize("names", [WORDS, WORDS[:1], WORDS[:2]], ids=len)
def test_images_of_any_size_and_any_number_of_words(
    exported: Segmenter, words: Any, picture: Picture, size: tuple[int, int], names: tuple[str, ...]
) -> None:
    """Photo and words in, the same label map out."""
    image = picture(*size)
    result = exported.segment(image, names)
    _same(result, words.network.segment(image, names))
    if min(size) > 2 and len(names) > 1:
        assert len(np.unique(result.label_map)) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"image_size": 24},
        {"view": WINDOWS},
        {"view": View(short_side=60, window=32, stride=20, blend="taper")},
        {"view": View(scales=(0.5, 1.0, 1.5), flip=True)},
        {"view": View(short_side=50, window=24, blend="taper", flip=True, scales=(1.0, 1.3))},
        {"view": View(min_share=0.2)},
        {"view": View(templates=("a photo of a {}.", "the {}"), logit_scale=3.0)},
        {"view": View(window=32, min_share=0.1), "threshold": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "vocabulary",
    [
        WORDS,
        ("big cat=tiger|lion", "sky|heaven", "house"),
        Vocabulary.parse(("tiger", "house"), background=("sky", "tree", "road")),
    ],
    ids=["words", "synonyms", "background"],
)
def test_views_synonyms_and_thresholds(
    exported: Segmenter, words: Any, picture: Picture, options: dict[str, Any], vocabulary: Any
) -> None:
    """Windows, blending, mirror images, scales, templates, and small classes left out."""
    image = picture(70, 97)
    _same(
        exported.segment(image, vocabulary, **options),
        words.network.segment(image, vocabulary, **options),
    )


def test_probabilities_of_every_class(exported: Segmenter, words: Any, picture: Picture) -> None:
    """Also of synonyms, and beside words for background."""
    image = picture(33, 50)
    for names in (WORDS, ("big cat=tiger|lion", "sky"), ("tiger",)):
        probabilities = exported.class_probabilities(image, names)
        assert probabilities.shape == (len(names), 33, 50)
        expected = words.network.class_probabilities(image, names)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_images_in_a_batch_are_what_they_are_alone(exported: Segmenter, picture: Picture) -> None:
    """Three of one size and one of another."""
    images = [picture(40, 50, seed) for seed in range(3)] + [picture(30, 20)]
    for together, image in zip(exported.segment_batch(images, WORDS), images, strict=True):
        _same(together, exported.segment(image, WORDS))


def test_it_has_the_attributes_of_the_network(exported: Segmenter, words: Any) -> None:
    """Size, template and what it can be asked for are read from the export."""
    for name in ("image_size", "template", "class_names", "tells_background"):
        assert getattr(exported, name) == getattr(words.network, name)
    assert exported.complete(View()) == words.network.complete(View())


def test_the_template_may_be_changed(words: Any, picture: Picture) -> None:
    """As for a checkpoint; one that cannot hold a name is refused."""
    exported, image = Segmenter.load(str(words.folder), device="cpu"), picture(30, 40)
    exported.template = "{} drawn"
    asked = words.network.segment(image, WORDS, view=View(templates=("{} drawn",)))
    _same(exported.segment(image, WORDS), asked)
    with pytest.raises(ConfigError, match="cannot hold a class name"):
        exported.template = "no place"


def test_a_refinement_is_refused(exported: Segmenter, picture: Picture) -> None:
    """It needs torch, and says so."""
    with pytest.raises(ConfigError, match="cannot refine its masks with pamr: that needs torch"):
        exported.segment(picture(9, 9), WORDS, view=View(refine="pamr"))
