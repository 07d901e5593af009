"""Protocols resolve what the user left open, and keep what was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.benchmarks.pascal import CONTEXT_CLASSES, VOC_CLASSES
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.presets import PROTOCOLS, load_preset
from sseg_core.evaluation.protocol import (
    SegmentationProtocol,
    oracle_protocol,
    segmentation_protocol,
)
from sseg_core.inference.view import View
from sseg_core.text.templates import IMAGENET_80


def _benchmark(
    name: str = "b", class_names: tuple[str, ...] = ("cat",), *, has_background: bool = True
) -> Benchmark:
    def never(key: str) -> NoReturn:
        raise AssertionError(key)

    return Benchmark(name, class_names, has_background, ("1",), never, never)


def _protocol(benchmark: Benchmark | None = None, **options: Any) -> SegmentationProtocol:
    return segmentation_protocol(EvalConfig.model_validate(options), benchmark or _benchmark())


VOC = _benchmark("voc2012", VOC_CLASSES)


def test_the_protocol_of_the_paper_leaves_the_view_to_the_model() -> None:
    """Size and templates are the model's; the protocol as stored tells what it chose."""
    protocol = _protocol()
    assert protocol.view == View()
    stored = protocol.seen_by(View(short_side=448, window=0, templates=("{}",))).as_json()
    assert (stored["name"], stored["short_side"], stored["templates"]) == ("sseg", 448, ["{}"])
    assert (stored["background"], stored["threshold"]) == ("threshold", 0.5)
    assert stored["changed"] == []


def test_what_the_user_changes_is_said() -> None:
    """A score under another size, threshold or template is not taken for a plain one."""
    changed = _protocol(image_size=224, threshold=0.5, templates=("a {}",), refine="none").changed
    assert changed == ("short_side", "templates", "refine")
    assert _protocol(protocol="groupvit", image_size=448, threshold=0.9).changed == ("threshold",)
    assert _protocol(protocol="groupvit", background="words").changed == ("background",)


def test_looks_of_the_user_are_said() -> None:
    """Scales and the mirror image move a score like any other option of the view."""
    protocol = _protocol(scales=(0.5, 1.0), flip=True)
    assert protocol.changed == ("scales", "flip")
    assert protocol.view == View(scales=(0.5, 1.0), flip=True)
    stored = protocol.seen_by(View(scales=(0.5, 1.0), flip=True)).as_json()
    assert (stored["scales"], stored["flip"]) == ([0.5, 1.0], True)
    with pytest.raises(ConfigError, match="cannot be looked at at 0 times its size"):
        _protocol(scales=(0.0,))


def test_groupvit_as_published() -> None:
    """Windows of 448 every 224 pixels, one template, thresholds by benchmark."""
    protocol = _protocol(VOC, protocol="groupvit")
    view = View(448, 448, 224, ("a photo of a {}.",), articles=False)
    assert (protocol.view, protocol.threshold) == (view, 0.95)
    assert protocol.vocabulary.words == VOC_CLASSES
    context = _benchmark("context", CONTEXT_CLASSES)
    assert _protocol(context, protocol="groupvit").threshold == 0.35


def test_tcl_as_published() -> None:
    """PAMR, nine templates, and VOC's own names."""
    protocol = _protocol(VOC, protocol="tcl")
    assert (protocol.view.refine, protocol.threshold) == ("pamr", 0.4)
    assert protocol.view.templates is not None
    assert protocol.view.templates[-2:] == ("a photo of many {}.", "a photo of {}s.")
    assert protocol.as_json()["templates"] == ["custom"]
    assert protocol.vocabulary.words[10] == "diningtable"


def test_sclip_as_published() -> None:
    """Background by 26 words, persons in shirts, and a temperature of its own for VOC."""
    protocol = _protocol(VOC, protocol="sclip")
    assert protocol.background == "words"
    assert protocol.view == View(
        336, 224, 112, IMAGENET_80, articles=False, logit_scale=65.0, min_share=0.1
    )
    vocabulary = protocol.vocabulary
    assert vocabulary.classes.count(-1) == 26
    assert vocabulary.classes.count(VOC_CLASSES.index("person")) == 7
    assert "ship" in vocabulary.words
    assert "boat" not in vocabulary.words
    stored = protocol.as_json()
    assert stored["words"]["boat"] == ["ship"]
    assert stored["background_words"][0] == "sky"
    excluded = _protocol(VOC, protocol="sclip", background="exclude")
    assert (excluded.view.logit_scale, excluded.view.min_share) == (40.0, 0.0)
    assert -1 not in excluded.vocabulary.classes
    assert (excluded.background, excluded.threshold) == ("exclude", 0.0)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_words_of_every_protocol_are_of_classes_that_exist(name: str) -> None:
    """A benchmark's class that was renamed would be asked for by its plain name in silence."""
    classes = {"voc2012": VOC_CLASSES, "context": CONTEXT_CLASSES}
    for benchmark, words in load_preset(name).words.items():
        if benchmark in classes:
            assert set(words) <= set(classes[benchmark])


def test_background_words_of_the_user() -> None:
    """They take the place of the protocol's; a class is no word for background."""
    benchmark = _benchmark(class_names=("sky", "cat"))
    own = _protocol(benchmark, background="words", background_words=("fog",))
    assert own.vocabulary.words == ("sky", "cat", "fog")
    usual = _protocol(benchmark, background="words").vocabulary
    assert usual.words[:3] == ("sky", "cat", "wall")


@pytest.mark.parametrize(
    ("has_background", "rule", "resolved"),
    [(True, "exclude", "exclude"), (False, None, "none"), (False, "exclude", "none")],
)
def test_without_predicted_background_there_is_no_threshold(
    has_background: bool, rule: str | None, resolved: str
) -> None:
    """Excluded or absent background means threshold 0, and a given threshold is an error."""
    benchmark = _benchmark(has_background=has_background)
    protocol = _protocol(benchmark, background=rule)
    assert (protocol.background, protocol.threshold) == (resolved, 0.0)
    for option in ({"threshold": 0.5}, {"sweep_threshold": True}):
        with pytest.raises(ConfigError, match="has no meaning where background is"):
            _protocol(benchmark, background=rule, **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "grupvit"}, "There is no protocol 'grupvit'"),
        ({"templates": ("a photo",)}, "cannot hold a class name"),
        ({"window": 100, "stride": 101}, "apart leave gaps"),
    ],
)
def test_what_cannot_be_is_an_error(options: dict[str, Any], message: str) -> None:
    """Before any image is looked at."""
    with pytest.raises(ConfigError, match=message):
        _protocol(**options)


def test_background_cannot_be_predicted_where_there_is_none() -> None:
    """A rule for it is an error, not ignored."""
    with pytest.raises(ConfigError, match="has no background to be predicted"):
        _protocol(_benchmark(has_background=False), background="words")


def test_a_class_file_is_named_in_the_protocol(tmp_path: Path) -> None:
    """A score with words of one's own says whose they are."""
    path = tmp_path / "words.txt"
    path.write_text("cat: cat, kitten\n", encoding="utf-8")
    protocol = _protocol(class_words=str(path))
    assert protocol.vocabulary.words == ("cat", "kitten")
    assert protocol.as_json()["class_words"] == str(path)
    assert protocol.changed == ("class_words",)


def test_the_oracle_has_background_as_a_class() -> None:
    """Unless it is excluded or there is none."""
    masks, config = PseudomaskConfig(), EvalConfig()
    assert oracle_protocol(config, _benchmark(), masks).background == "class"
    assert oracle_protocol(config, _benchmark(has_background=False), masks).background == "none"
    config = EvalConfig(background="exclude")
    assert oracle_protocol(config, _benchmark(), masks).background == "exclude"


def test_the_oracle_says_how_its_segments_are_made() -> None:
    """Everything that moves the score is in the protocol."""
    masks = PseudomaskConfig(features="rgb", clustering="spectral", masks=16, grid=28, seed=3)
    assert oracle_protocol(EvalConfig(), _benchmark(), masks).as_json() == {
        "name": "oracle",
        "version": 1,
        "features": "rgb",
        "facet": "token",
        "clustering": "spectral",
        "masks": 16,
        "image_size": 224,
        "grid": 28,
        "seed": 3,
        "background": "class",
    }
