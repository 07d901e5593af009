"""What a teacher's labels are, and how sure it is of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import LabelConfig
from sseg_core.data.images import ImageError
from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.examples import Benchmark
from sseg_core.labelling.teacher import Labels, open_teacher

# Red is the word of a pixel, 255 for background, and green its probability in percent.
PLUGIN = """
import numpy as np
from sseg_core.evaluation.rivals.rival import Prediction

def words(image):
    return np.where(image[..., 0] == 255, -1, image[..., 0].astype(int))

def build():
    return lambda images, names: [Prediction(words(i), i[..., 1] / 100) for i in images]

def unsure():
    return lambda images, names: [words(i) for i in images]

def odd():
    return lambda images, names: [Prediction(words(i), i[..., 1]) for i in images]

def turned():
    return lambda images, names: [words(i).T for i in images]
"""


def _never(key: str) -> NoReturn:
    raise ImageError("unreadable", key)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return f"{tmp_path / 'plugin.py'}:"


def _label(plugin: str, words: list[int], percent: list[int], **options: Any) -> Labels:
    benchmark = Benchmark("b", ("cat", "dog"), True, (), _never, _never)
    config = LabelConfig(**{"model": f"{plugin}build", **options})
    teacher = open_teacher(config, benchmark, ArtifactStore(Path("nowhere")), "cpu")
    image = np.array([words, percent, [0] * len(words)], np.uint8).T[None]
    [labels] = teacher.label(["a"], [image])
    assert labels.label_map.dtype == np.int16
    return labels


def test_a_label_is_as_sure_as_its_probability(plugin: str) -> None:
    """Of background below the threshold, 1 - p of the class that it is not."""
    labels = _label(plugin, [0, 1, 0, 1], [90, 60, 40, 5], threshold=0.5)
    assert labels.label_map.tolist() == [[0, 1, -1, -1]]
    assert labels.confidence is not None
    assert labels.confidence.dtype == np.float32
    assert labels.confidence.tolist() == [pytest.approx([0.9, 0.6, 0.6, 0.95])]


def test_a_word_for_background_is_as_sure_as_its_own_probability(plugin: str) -> None:
    """Above the threshold; below it, it is background in any case."""
    labels = _label(plugin, [0, 2, 2], [90, 80, 30], background_words=("wall",), background="words")
    assert labels.label_map.tolist() == [[0, -1, -1]]
    assert labels.confidence is not None
    assert labels.confidence.tolist() == [pytest.approx([0.9, 0.8, 0.7])]


def test_without_background_every_pixel_is_a_class_or_nothing(plugin: str) -> None:
    """Left out by the rule `exclude`, or not there; who says it nevertheless says nothing."""
    rules: list[tuple[bool, dict[str, Any]]] = [(False, {}), (True, {"background": "exclude"})]
    for has_background, rule in rules:
        config = LabelConfig(model=f"{plugin}build", **rule)
        benchmark = Benchmark("b", ("cat", "dog"), has_background, (), _never, _never)
        teacher = open_teacher(config, benchmark, ArtifactStore(Path("nowhere")), "cpu")
        assert not teacher.has_background
        image = np.array([[[0, 5, 0], [1, 90, 0], [255, 70, 0]]], np.uint8)
        [labels] = teacher.label(["a"], [image])
        assert labels.label_map.tolist() == [[0, 1, -2]]
        assert labels.confidence is not None
        assert labels.confidence.tolist() == [pytest.approx([0.05, 0.9, 0])]


def test_a_teacher_without_confidence_says_background_itself(plugin: str) -> None:
    """No threshold can apply."""
    labels = _label(plugin, [0, 1, 255], [90, 5, 90], model=f"{plugin}unsure")
    assert labels.label_map.tolist() == [[0, 1, -1]]
    assert labels.confidence is None


def test_who_knows_the_truth_is_no_teacher(tmp_path: Path) -> None:
    """An oracle, even of pseudo-masks, would label images with their own truth."""
    benchmark = Benchmark("b", ("cat",), True, (), _never, _never)
    for model in ("oracle:lab", "oracle:all"):
        with pytest.raises(ConfigError, match="from the truth, so it cannot be a teacher"):
            open_teacher(LabelConfig(model=model), benchmark, ArtifactStore(tmp_path), "cpu")


def test_what_is_no_labels_is_refused(plugin: str) -> None:
    """Another shape than the image's, and what is no probability; the image is named."""
    with pytest.raises(DataError, match=r"of shape 3 x 1, not 1 x 3 .* the image a"):
        _label(plugin, [0, 1, 0], [9, 9, 9], model=f"{plugin}turned")
    with pytest.raises(DataError, match=r"is sure of the image a by 1 to 90, which are no prob"):
        _label(plugin, [0, 1, 0], [1, 90, 9], model=f"{plugin}odd")
