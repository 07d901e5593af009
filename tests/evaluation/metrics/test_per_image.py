"""Counts per image, and the bootstrap over them, against plain loops."""

from __future__ import annotations

import math
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sseg_core.errors import ArtifactError
from sseg_core.evaluation.metrics import per_image
from sseg_core.evaluation.metrics.confusion import NO_CLASS, ConfusionMatrix
from sseg_core.evaluation.metrics.per_image import PerImage

LABELS = 6
Maps = dict[str, tuple[np.ndarray, np.ndarray]]


def _maps(images: int, seed: int = 0, wrong: float = 0.4) -> Maps:
    """Maps of a few labels each, as images have them, some of them hard."""
    rng = np.random.default_rng([seed, images])
    maps = {}
    for number in range(images):
        shown = rng.choice(LABELS, 3, replace=False)
        truth = rng.choice([*shown, NO_CLASS], (9, 11))
        guess = rng.choice([*rng.choice(LABELS, 2), NO_CLASS], truth.shape)
        missed = rng.random(truth.shape) < rng.random() * wrong * 2
        prediction = np.where(missed | (truth == NO_CLASS), guess, truth)
        maps[f"image-{number:03}"] = (prediction.astype(np.int16), truth.astype(np.int16))
    return maps


def _counted(maps: Maps, boundary: float = 0.5) -> PerImage:
    result = PerImage(LABELS)
    for key, (prediction, truth) in maps.items():
        result.add(key, prediction, truth, boundary)
    return result


def _miou(maps: list[tuple[np.ndarray, np.ndarray]]) -> float:
    matrix = ConfusionMatrix(LABELS)
    for prediction, truth in maps:
        matrix.update(prediction, truth)
    return matrix.compute().miou


def test_the_score_over_all_images_is_that_of_the_confusion_matrix() -> None:
    """To the last bit: both divide the same whole numbers."""
    maps = _maps(20)
    assert _counted(maps).miou() == _miou(list(maps.values()))


def test_the_scores_of_an_image_are_those_of_a_matrix_of_it_alone() -> None:
    """Of every image, over the labels that occur in it."""
    maps = _maps(20)
    counted = _counted(maps)
    for key, (prediction, truth) in maps.items():
        matrix = ConfusionMatrix(LABELS)
        matrix.update(prediction, truth)
        scores = matrix.compute()
        assert counted.miou_of(key) == pytest.approx(scores.miou)
        assert counted.pixel_accuracy_of(key) == scores.pixel_accuracy
        assert set(counted[key].labels) == set(np.flatnonzero(~np.isnan(scores.iou)))


def test_an_image_of_which_nothing_counts_has_no_score() -> None:
    """It is counted as an image, and changes no score."""
    maps = _maps(5)
    counted = _counted(maps)
    before = counted.miou()
    counted.add("void", np.zeros((2, 2), np.int16), np.full((2, 2), NO_CLASS, np.int16), math.nan)
    assert len(counted) == 6
    assert math.isnan(counted.miou_of("void"))
    assert math.isnan(counted.pixel_accuracy_of("void"))
    assert counted.miou() == before


def test_the_mean_boundary_f_is_over_the_images_that_have_one() -> None:
    """In percent; with none left there is no mean."""
    zeros = np.zeros((2, 2), np.int16)
    counted = PerImage(LABELS)
    assert math.isnan(counted.boundary_f())
    counted.add("plain", zeros, zeros, math.nan)
    assert math.isnan(counted.boundary_f())
    counted.add("half", zeros, zeros, 0.5)
    counted.add("whole", zeros, zeros, 1.0)
    assert counted.boundary_f() == 75.0


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """Images drawn one by one, counted anew: 1.96 standard deviations around the score."""
    maps = _maps(30)
    images = list(maps.values())
    draw = random.Random(1)
    scores = [_miou(draw.choices(images, k=len(images))) for _ in range(400)]
    score, spread = _miou(images), 1.959964 * float(np.std(scores))
    low, high = _counted(maps).interval(samples=4000)
    assert (low + high) / 2 == pytest.approx(score)
    # Two spreads from 400 and 4000 draws differ by 4 % of themselves at one deviation.
    assert high - score == pytest.approx(spread, rel=0.15)


def test_the_draws_are_weighed_as_if_images_were_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mIoU of each draw is exactly that of counting its images as often as they were drawn."""
    maps = _maps(8)
    counted, images = _counted(maps), list(maps.values())
    (weights,) = per_image._draws(8, LABELS, seed=3, samples=20)
    assert weights.sum(axis=1).tolist() == [8] * 20
    for one, score in zip(weights, counted._miou_of_weighted(weights), strict=True):
        repeated = [image for image, n in zip(images, one, strict=True) for _ in range(n)]
        assert score == _miou(repeated)


def test_memory_bounds_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of a few samples the draws are the same as all at once."""
    counted = _counted(_maps(30))
    at_once = counted.interval()
    monkeypatch.setattr(per_image, "_CHUNK", 100)
    assert counted.interval() == at_once


def test_many_labels_and_images_take_little_memory() -> None:
    """2000 images of 1204 labels: a table of one by the other would take 19 MB, three times."""
    rng = np.random.default_rng(0)
    counted = PerImage(1204)
    for number in range(2000):
        truth = rng.integers(1204, size=(4, 4))
        counted.add(str(number), np.roll(truth, rng.integers(2)), truth, 1.0)
    tracemalloc.start()
    low, high = counted.interval(samples=700)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert low < counted.miou() < high
    assert peak < 60_000_000


def test_another_seed_is_another_draw_and_the_same_seed_the_same() -> None:
    """The interval of a published score can be computed again."""
    counted = _counted(_maps(30))
    assert counted.interval(seed=4) == counted.interval(seed=4)
    assert counted.interval(seed=4) != counted.interval(seed=5)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    """99 % hold 1.31 times the width of 95 %: 2.576 instead of 1.960 standard deviations."""
    counted = _counted(_maps(30))
    low, high = counted.interval()
    lower, higher = counted.interval(confidence=0.99)
    assert (higher - lower) / (high - low) == pytest.approx(2.575829 / 1.959964)


def test_no_image_has_no_interval_and_one_image_no_width() -> None:
    """The bootstrap knows nothing of what it has not seen."""
    assert all(map(math.isnan, PerImage(LABELS).interval()))
    one = _counted(_maps(1))
    assert one.interval() == pytest.approx((one.miou(), one.miou()))


def test_an_interval_stays_within_0_and_100() -> None:
    """A score near its end has no room beyond it."""
    counted = _counted(_maps(12, wrong=0.03))
    low, high = counted.interval()
    assert low < counted.miou() < high == 100.0


def test_the_interval_covers_the_score_of_the_population() -> None:
    """Of 200 benchmarks drawn from 4000 images, 19 in 20 intervals hold the mIoU of all.

    180 to 198 of 200: below is improbable at 95 % (2 in 1000), and so is more than 198.
    """
    rng = np.random.default_rng(0)
    population = 4000
    sizes = rng.lognormal(6, 0.7, (population, LABELS)).astype(int)
    sizes[rng.random(sizes.shape) < 0.5] = 0
    shares = np.linspace(0.3, 0.9, LABELS)
    right = rng.binomial(sizes, rng.beta(4 * shares, 4 * (1 - shares), sizes.shape))
    # A missed pixel is given the next label.
    predicted = right + np.roll(sizes - right, 1, axis=1)
    everything = _from_counts(sizes, predicted, right, np.arange(population)).miou()
    covered = 0
    for _ in range(200):
        chosen = rng.integers(population, size=80)
        low, high = _from_counts(sizes, predicted, right, chosen).interval(samples=200)
        covered += low <= everything <= high
    assert 180 <= covered <= 198


def _from_counts(
    truth: np.ndarray, predicted: np.ndarray, right: np.ndarray, chosen: np.ndarray
) -> PerImage:
    result, labels = PerImage(LABELS), np.arange(LABELS)
    for number, n in enumerate(chosen.tolist()):
        result._images[str(number)] = per_image.ImageCounts(
            str(number), labels, truth[n], predicted[n], right[n], math.nan
        )
    return result


def test_a_pair_of_models_is_compared_on_the_same_draws() -> None:
    """A small but steady difference is told from none, though the intervals overlap widely."""
    maps = _maps(40)
    better = {key: (_mended(p, t, 0.1), t) for key, (p, t) in maps.items()}
    worse, good = _counted(maps), _counted(better)
    assert worse.interval()[1] > good.interval()[0]
    low, high = good.paired_interval(worse)
    assert 0 < low < good.miou() - worse.miou() < high
    assert worse.paired_interval(good) == pytest.approx((-high, -low))
    assert good.paired_interval(good) == (0, 0)


def _mended(prediction: np.ndarray, truth: np.ndarray, share: float) -> np.ndarray:
    chosen = np.random.default_rng(0).random(truth.shape) < share
    return np.where(chosen & (truth >= 0), truth, prediction)


def test_a_pair_is_compared_on_the_images_that_both_have() -> None:
    """Whatever their order; without a common image there is no difference."""
    maps = _maps(20)
    others = {key: (_mended(p, t, 0.3), t) for key, (p, t) in maps.items()}
    keys = list(maps)
    mine = _counted({key: maps[key] for key in keys[:15]})
    theirs = _counted({key: others[key] for key in reversed(keys[5:])})
    same_mine = _counted({key: maps[key] for key in keys[5:15]})
    same_theirs = _counted({key: others[key] for key in keys[5:15]})
    assert mine.paired_interval(theirs) == same_mine.paired_interval(same_theirs)
    assert all(map(math.isnan, mine.paired_interval(_counted({"other": maps[keys[0]]}))))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_gives_the_same(processes: int, tmp_path: Path) -> None:
    """Merged and ordered, the parts are the whole: the same intervals, the same file."""
    maps = _maps(21)
    keys = list(maps)
    whole = _counted(maps)
    merged = PerImage(LABELS)
    for rank in reversed(range(processes)):
        merged.merge(_counted({key: maps[key] for key in keys[rank::processes]}))
    assert (merged.keys == whole.keys) == (processes == 1)
    merged = merged.ordered(["skipped", *keys])
    assert merged.interval() == whole.interval()
    merged.save(tmp_path / "merged.npz")
    whole.save(tmp_path / "whole.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Counts, order, strange keys and missing boundary scores, under any file name."""
    maps = _maps(4)
    counted = _counted(maps)
    counted.add("a/\N{SNOWMAN}\udc80\0", *maps["image-000"], math.nan)
    path = tmp_path / "images.part"
    counted.save(path)
    loaded = PerImage.load(path)
    assert loaded.keys == counted.keys
    assert loaded.num_labels == LABELS
    assert loaded.interval() == counted.interval()
    assert loaded.boundary_f() == counted.boundary_f()
    for key in counted.keys:
        assert np.array_equal(loaded[key].labels, counted[key].labels)
        assert loaded.miou_of(key) == counted.miou_of(key)


def test_no_image_is_saved_and_comes_back(tmp_path: Path) -> None:
    """A benchmark of which nothing could be read."""
    PerImage(LABELS).save(tmp_path / "images.npz")
    assert len(PerImage.load(tmp_path / "images.npz")) == 0


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Missing, cut short, no archive, without what is needed, or with labels that are none."""
    path = tmp_path / "images.npz"
    _counted(_maps(3)).save(path)
    whole = path.read_bytes()
    with np.load(path) as arrays:
        columns = dict(arrays)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        PerImage.load(path)
    for damaged in (whole[:-30], whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="cannot be read"):
            PerImage.load(path)
    for change in (
        {"labels": columns["labels"] + LABELS},
        {"truth": columns["truth"][1:]},
        {"right": -columns["right"] - 1},
        {"boundary": columns["boundary"][1:]},
    ):
        np.savez(path, **{**columns, **change})
        with pytest.raises(ArtifactError, match="cannot be read"):
            PerImage.load(path)
    np.savez(path, keys=columns["keys"])
    with pytest.raises(ArtifactError, match="cannot be read"):
        PerImage.load(path)
