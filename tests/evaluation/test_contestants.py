"""Students as `sseg eval` scores them: background, their classes, and what the protocol says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import EvalConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.benchmarks.registry import open_benchmark
from sseg_core.evaluation.contestants import Contestant, contestant
from sseg_core.evaluation.scores import score
from sseg_core.inference.segmenter import Segmenter

NAMES = ("wheat", "oil seed", "soil")
MakeStudent = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _folder(root: Path, *, background: bool) -> str:
    """Write three images with random truths; return the name of the benchmark."""
    rng = np.random.default_rng(0)
    for number in range(3):
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        truth = rng.integers(0, 3 + background, (5, 6), dtype=np.uint8)
        truth = truth.repeat(8, axis=0).repeat(10, axis=1)
        Image.fromarray(truth).save(root / "masks" / f"{number}.png")
    lines = (["background"] if background else []) + list(NAMES)
    (root / "classes.txt").write_text("\n".join(lines))
    return f"folder:{root}"


def _asked(store: ArtifactStore, benchmark: str, **options: Any) -> tuple[Contestant, Any]:
    config = EvalConfig(benchmark=benchmark, model="plus", **options)
    opened = open_benchmark(config, store)
    return contestant(config, opened, store, "cpu"), opened


def test_a_student_tells_the_benchmarks_background_itself(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path
) -> None:
    """No threshold takes part, and the score is that of its own label maps."""
    make_student(store, NAMES, background=True)
    benchmark = _folder(tmp_path / "field", background=True)
    asked, opened = _asked(store, benchmark)
    assert asked.protocol["background"] == "class"
    assert (asked.protocol["threshold"], asked.rule.threshold) == (0.0, 0.0)
    assert (asked.protocol["changed"], asked.protocol["templates"]) == ([], None)
    assert any("tells background apart by itself" in note for note in asked.notes)
    evaluation, stats = score(asked, opened, "cpu")
    segmenter = Segmenter.load("plus", store=store, device="cpu")
    right, pixels, predicted = 0, 0, set()
    for example in opened:
        labels = segmenter.segment(example.image, NAMES).label_map
        right += int((labels == example.truth).sum())
        pixels += labels.size
        predicted |= set(np.unique(labels))
    assert -1 in predicted
    assert len(predicted) > 2
    assert stats["pixel_accuracy"] == pytest.approx(100 * right / pixels, abs=0.01)
    assert evaluation.labels == ("background", *NAMES)


@pytest.mark.parametrize("background", [True, False])
def test_without_background_to_predict_every_pixel_has_a_class(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path, background: bool
) -> None:
    """Excluded or absent: the student is not asked for it."""
    make_student(store, NAMES, background=True)
    benchmark = _folder(tmp_path / "field", background=background)
    options = {"background": "exclude"} if background else {}
    asked, opened = _asked(store, benchmark, **options)
    assert asked.protocol["background"] == ("exclude" if background else "none")
    for prediction in asked.predict(list(opened)):
        assert prediction.label_map.min() >= 0
        assert prediction.confidence is not None
        assert prediction.confidence.min() >= 1 / 3 - 1e-6


def test_a_student_without_background_has_a_threshold_as_models_of_words_have(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path
) -> None:
    """Its labels are classes, and the evaluator makes those below the threshold background."""
    make_student(store, NAMES, background=False)
    benchmark = _folder(tmp_path / "field", background=True)
    asked, opened = _asked(store, benchmark)
    assert (asked.protocol["background"], asked.rule.threshold) == ("threshold", 0.5)
    predictions = asked.predict(list(opened))
    assert all(prediction.label_map.min() >= 0 for prediction in predictions)
    confidence = np.stack([p.confidence for p in predictions if p.confidence is not None])
    middle = float(np.median(confidence))
    below = int((confidence < middle).sum())
    assert 0 < below < 3 * 40 * 60
    asked, opened = _asked(store, benchmark, threshold=middle)
    assert asked.protocol["changed"] == ["threshold"]
    evaluation, _ = score(asked, opened, "cpu")
    assert evaluation.confusion.counts[:, 0].sum() == below
    words, _ = _asked(store, benchmark, protocol="sclip")
    assert (words.protocol["background"], words.protocol["background_words"]) == ("threshold", [])


def test_what_is_meant_for_another_model_is_no_change_of_the_students(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path
) -> None:
    """Its teacher's threshold and words are left aside; sizes and looks are followed and told."""
    make_student(store, NAMES, background=True)
    benchmark = _folder(tmp_path / "field", background=True)
    asked, opened = _asked(
        store,
        benchmark,
        background="words",
        background_words=("sky",),
        threshold=0.3,
        templates=("a {}",),
        logit_scale=20.0,
        image_size=48,
        scales=(0.5, 1.0),
        flip=True,
    )
    assert asked.protocol["background"] == "class"
    assert asked.protocol["changed"] == ["short_side", "scales", "flip"]
    assert (asked.protocol["scales"], asked.protocol["flip"]) == ([0.5, 1.0], True)
    assert asked.protocol["logit_scale"] is None
    assert asked.protocol["background_words"] == []
    own, _ = _asked(store, benchmark)
    [theirs], [plain] = asked.predict([opened.load("0")]), own.predict([opened.load("0")])
    assert theirs.confidence is not None
    assert plain.confidence is not None
    assert np.abs(theirs.confidence - plain.confidence).max() > 1e-3


def test_a_sweep_of_thresholds_has_no_meaning_then(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path
) -> None:
    """It is an error before any image is looked at."""
    make_student(store, NAMES, background=True)
    benchmark = _folder(tmp_path / "field", background=True)
    with pytest.raises(ConfigError, match="sweep_threshold has no meaning where background is 'cl"):
        _asked(store, benchmark, sweep_threshold=True)


def test_classes_that_it_does_not_know_are_refused_at_once(
    store: ArtifactStore, make_student: MakeStudent, tmp_path: Path
) -> None:
    """Before any image; the teacher that takes words is the one at the end of the row."""
    make_student(store, NAMES[:2], background=True, name="first", stats={"teacher": "demo:v1"})
    make_student(store, NAMES[:2], background=True, stats={"teacher": "first:v1"})
    benchmark = _folder(tmp_path / "field", background=True)
    with pytest.raises(ConfigError) as caught:
        _asked(store, benchmark)
    assert caught.value.message == "plus:v1 knows 2 classes, and 'soil' is none of them."
    assert caught.value.hint == (
        "Its teacher demo:v1 takes any words: --model demo:v1. Or choose among wheat, oil seed."
    )


@pytest.mark.parametrize("option", ["scales", "flip"])
@pytest.mark.parametrize("model", ["my_model.py:build", "oracle:lab"])
def test_other_models_look_once(
    store: ArtifactStore, tmp_path: Path, model: str, option: str
) -> None:
    """They refuse what they would not do."""
    (tmp_path / "my_model.py").write_text("def build():\n    return lambda images, names: []\n")
    model = model.replace("my_model", str(tmp_path / "my_model"))
    benchmark = _folder(tmp_path / "field", background=True)
    value: Any = (0.5, 1.0) if option == "scales" else True
    config = EvalConfig.model_validate({"benchmark": benchmark, "model": model, option: value})
    with pytest.raises(ConfigError, match=option):
        contestant(config, open_benchmark(config, store), store, "cpu")
