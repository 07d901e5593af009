"""`sseg predict` from photos to overlays, label maps and JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PredictConfig
from sseg_core.data.photo_stream import PixelBudget
from sseg_core.errors import ArtifactError, ConfigError, DataError
from sseg_core.stages import predict

CLASSES = ("house", "tree", "sky")


@pytest.fixture
def store(tmp_path: Path, make_checkpoint: Callable[[ArtifactStore], Artifact]) -> ArtifactStore:
    """A store with an untrained checkpoint."""
    store = ArtifactStore(tmp_path / "store")
    make_checkpoint(store)
    return store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos in it, one in a subfolder, and a text."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"b.png": (40, 60), "a.JPG": (33, 47), "more/a.png": (50, 20)}.items():
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def _run(store: ArtifactStore, *images: Path | str, **options: Any) -> Artifact:
    config = PredictConfig(images=tuple(map(str, images)), classes=CLASSES, **options)
    return predict.run(config, store, device="cpu")


def _entries(artifact: Artifact) -> list[dict[str, Any]]:
    return list(predict.read_entries(artifact))


def test_every_image_gets_pictures_and_an_entry(store: ArtifactStore, photos: Path) -> None:
    """A folder and a file: entries in order, pictures that open, numbers that agree."""
    artifact = _run(store, photos, photos / "more" / "a.png")
    images = _entries(artifact)
    assert artifact.reference == "predictions:v1"
    assert artifact.manifest.parents[0].name == "random"
    assert artifact.manifest.stats["model"] == "random:v1"
    assert artifact.manifest.stats["class_names"] == list(CLASSES)
    expected = [photos / "a.JPG", photos / "b.png", photos / "more/a.png"]
    assert [image["file"] for image in images] == [str(path) for path in expected]
    assert [(image["height"], image["width"]) for image in images] == [(33, 47), (40, 60), (50, 20)]
    for image in images:
        with Image.open(artifact.file(image["label_map"])) as opened:
            assert opened.mode == "P"
            labels = np.array(opened)
        assert labels.shape == (image["height"], image["width"])
        with Image.open(artifact.file(image["overlay"])) as overlay:
            overlay.load()
        assert image["background_share"] == 0
        found = [entry["index"] for entry in image["classes"]]
        assert [index + 1 for index in found] == np.unique(labels).tolist()
        for index, entry in zip(found, image["classes"], strict=True):
            assert entry["name"] == CLASSES[index]
            assert entry["area_share"] == pytest.approx((labels == index + 1).mean())
            assert np.array_equal(coco_mask.decode(entry["rle"]), labels == index + 1)
    assert artifact.manifest.stats["images"] == 3
    assert artifact.manifest.stats["failed"] == {}


def test_images_of_one_name_do_not_overwrite_each_other(store: ArtifactStore, photos: Path) -> None:
    """a.JPG and more/a.png become a.* and a-2.*."""
    artifact = _run(store, photos / "a.JPG", photos / "more" / "a.png")
    labels = [image["label_map"] for image in _entries(artifact)]
    assert labels == ["a.labels.png", "a-2.labels.png"]


@pytest.mark.parametrize("stem", ["..", "-rf", "a b;c", "\u732b", "x" * 200, "\x1b[31m"])
def test_file_names_of_strangers_become_safe_ones(
    store: ArtifactStore, tmp_path: Path, stem: str
) -> None:
    """Whatever a photo is called, its pictures lie in the artifact under plain names."""
    path = tmp_path / f"{stem}.png"
    Image.new("RGB", (8, 8), "red").save(path, format="PNG")
    artifact = _run(store, path)
    [entry] = _entries(artifact)
    assert entry["file"] == str(path)
    assert artifact.file(entry["overlay"]).parent == artifact.path
    assert entry["overlay"].isascii()
    assert entry["overlay"][0].isalnum()
    assert " " not in entry["overlay"]


def test_a_bad_image_does_not_stop_the_others(store: ArtifactStore, photos: Path) -> None:
    """It stands in its place with the error and the reason, and is counted."""
    (photos / "a.JPG").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    artifact = _run(store, photos)
    bad, good = _entries(artifact)
    assert bad["file"].endswith("a.JPG")
    assert bad["error"].endswith(".")
    assert "classes" not in bad
    assert sum(entry["area_share"] for entry in good["classes"]) == pytest.approx(1)
    assert artifact.manifest.stats["images"] == 1
    assert artifact.manifest.stats["failed"] == {bad["reason"]: 1}


def test_nothing_readable_is_an_error(store: ArtifactStore, photos: Path) -> None:
    """One bad image gives its own error, several say so; nothing is published."""
    (photos / "a.JPG").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.JPG is empty"):
        _run(store, photos / "a.JPG")
    with pytest.raises(DataError, match=r"None of the 2 images.*a\.JPG is empty"):
        _run(store, photos / "a.JPG", photos / "notes.txt")
    assert store.artifacts("predictions") == []


def test_pixels_below_the_threshold_are_background(store: ArtifactStore, photos: Path) -> None:
    """With threshold 1 all of a photo is background: index 0 in the label map."""
    artifact = _run(store, photos / "b.png", threshold=1.0)
    [entry] = _entries(artifact)
    with Image.open(artifact.file(entry["label_map"])) as labels:
        assert np.array(labels).max() == 0
    assert entry["background_share"] == 1


def _stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Have the stage interrupted at the image after so many; return the stems it wrote."""
    write, written = predict._Work._write, []

    def counted(work: Any, photo: Any, segmentation: Any) -> Any:
        if len(written) == count:
            raise KeyboardInterrupt
        entry = write(work, photo, segmentation)
        written.append(photo.stem)
        return entry

    monkeypatch.setattr(predict, "_WRITERS", 1)
    monkeypatch.setattr(predict._Work, "_write", counted)
    return written


def test_an_interrupted_run_goes_on_where_it_was(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is missing or has changed is done again, and the result is that of one run."""
    for name in ("c.png", "d.png", "e.png"):
        (photos / name).write_bytes((photos / "b.png").read_bytes())
    whole = _run(store, photos, npz=True)
    with monkeypatch.context() as patch:
        written = _stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            _run(store, photos, npz=True)
    assert written == ["a", "b", "c"]
    os.utime(photos / "b.png", (1, 1))
    with monkeypatch.context() as patch:
        written = _stop_after(patch, 100)
        resumed = _run(store, photos, npz=True)
    assert written == ["b", "d", "e"]
    assert resumed.reference == "predictions:v2"
    assert {n: f.sha256 for n, f in resumed.manifest.files.items()} == {
        n: f.sha256 for n, f in whole.manifest.files.items()
    }


def test_a_rerun_leaves_out_what_an_interrupted_run_left(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a run that was stopped midway do not slip into the next one."""
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            _run(store, photos)
    work = next((store.root / "predictions/predictions").glob(".work-*/artifact"))
    assert (work / "a.labels.png").exists()
    (photos / "a.JPG").unlink()
    (work / "old.overlay.png").write_bytes(b"left over")
    artifact = _run(store, photos)
    assert set(artifact.manifest.files) == {
        "b.labels.png", "b.overlay.png", "predictions.jsonl", "viewer.html",
    }  # fmt: skip
    assert artifact.problems() == []


def test_a_photo_that_broke_since_leaves_nothing_behind(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted run made of it is neither published nor on the page."""
    with monkeypatch.context() as patch:
        _stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            _run(store, photos)
    (photos / "a.JPG").write_bytes(b"broken")
    artifact = _run(store, photos)
    assert not [name for name in artifact.manifest.files if name.startswith("a.")]
    assert "a.JPG" not in artifact.file("viewer.html").read_text(encoding="utf-8")


def test_large_photos_in_batches_do_not_wait_for_ever(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may hold more pixels than are read ahead."""
    monkeypatch.setattr(predict, "PixelBudget", partial(PixelBudget, pixels=1))
    artifact = _run(store, photos, photos / "more" / "a.png", batch_size=3)
    assert artifact.manifest.stats["images"] == 3


def test_entries_come_as_soon_as_they_are_done(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the images, long before the last one is looked at."""
    for number in range(40):
        (photos / f"x{number:02}.png").write_bytes((photos / "b.png").read_bytes())
    config = PredictConfig(images=(str(photos),), classes=CLASSES)
    told: list[str] = []
    looked: list[int] = []
    open_model = predict.open_model

    def watched(*arguments: Any) -> Any:
        model = open_model(*arguments)

        def answer(images: Any) -> Any:
            looked.append(len(told))
            return model.answer(images)

        return replace(model, answer=answer)

    monkeypatch.setattr(predict, "open_model", watched)
    artifact = predict.run(
        config, store, device="cpu", each=lambda entry: told.append(entry["file"])
    )
    assert told == [entry["file"] for entry in _entries(artifact)]
    assert looked[-1] >= len(told) - 2 * predict._BEHIND


def test_batches_change_nothing(store: ArtifactStore, photos: Path) -> None:
    """Photos of several sizes, a bad one among them."""
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    one, three = (_run(store, photos, batch_size=size) for size in (1, 3))
    assert one.manifest.stats["failed"] == three.manifest.stats["failed"] != {}
    for name, entry in one.manifest.files.items():
        if name.endswith(".labels.png"):
            assert three.manifest.files[name].sha256 == entry.sha256


def test_probabilities_are_written_on_request(store: ArtifactStore, photos: Path) -> None:
    """Of every class at every pixel, summing to 1, and agreeing with the label map."""
    artifact = _run(store, photos / "b.png", npz=True)
    [entry] = _entries(artifact)
    with np.load(artifact.file(entry["probabilities"])) as arrays:
        scores, labels = arrays["probabilities"].astype(np.float32), arrays["label_map"]
        assert arrays["class_names"].tolist() == list(CLASSES)
    assert scores.shape == (3, 40, 60)
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=2e-3)
    best = np.take_along_axis(scores, labels[None].astype(np.int64), axis=0)[0]
    assert (best >= scores.max(axis=0) - 2e-3).all()


def test_synonyms_and_background_words_are_followed(store: ArtifactStore, photos: Path) -> None:
    """A class takes what its words take; background words take nothing."""
    image = photos / "b.png"
    words = predict.run(
        PredictConfig(images=(str(image),), classes=("house", "cottage", "tree", "sky")), store
    )
    together = predict.run(
        PredictConfig(
            images=(str(image),), classes=("home=house|cottage", "tree"), background_words=("sky",)
        ),
        store,
    )
    assert together.manifest.stats["class_names"] == ["home", "tree"]
    with (
        Image.open(words.file("b.labels.png")) as a,
        Image.open(together.file("b.labels.png")) as b,
    ):
        apart, joined = np.array(a), np.array(b)
    assert np.array_equal(joined, np.array([0, 1, 1, 2, 0], np.uint8)[apart])


def test_a_class_alone_is_contrasted(store: ArtifactStore, photos: Path) -> None:
    """It does not take every pixel, and a line says why; words of the user's own do as well."""
    told: list[str] = []

    class Told:
        def start(self, task: str, total: int | None, unit: str) -> None: ...

        def advance(self, count: int = 1, **fields: str) -> None: ...

        def message(self, text: str) -> None:
            told.append(text)

    def share(**options: Any) -> float:
        config = PredictConfig(images=(str(photos / "b.png"),), classes=("house",), **options)
        [entry] = _entries(predict.run(config, store, progress=Told()))
        return float(1 - entry["background_share"])

    assert share() < 1
    [line] = [text for text in told if "'house' alone would take every pixel" in text]
    assert "--background" in line
    told.clear()
    assert share(background_words=("tree", "sky")) < 1
    assert share(background_words=()) == 1
    assert not any("alone" in text for text in told)


def test_bad_words_are_refused_before_any_work(store: ArtifactStore, photos: Path) -> None:
    """The same class twice or a template without a place for it; nothing is left behind."""
    config = PredictConfig(images=(str(photos),), classes=("cat", "Cat"))
    with pytest.raises(ConfigError, match="the same"):
        predict.run(config, store, device="cpu")
    with pytest.raises(ConfigError, match="template"):
        _run(store, photos, templates=("a photo",))
    assert not (store.root / "predictions").exists()


def test_a_student_is_used_like_any_other_checkpoint(
    tmp_path: Path, photos: Path, make_student: Callable[..., Artifact]
) -> None:
    """Background is where it says so; what it was not taught is refused before any work."""
    store = ArtifactStore(tmp_path / "students")
    make_student(store, [*CLASSES, "cat"], background=True, stats={"teacher": "demo:v1"})
    artifact = _run(store, photos / "b.png")
    [entry] = _entries(artifact)
    with Image.open(artifact.file(entry["label_map"])) as labels:
        values = np.array(labels)
    assert set(np.unique(values)) <= {0, 1, 2, 3}
    assert entry["background_share"] == pytest.approx((values == 0).mean())
    unknown = PredictConfig(images=(str(photos),), classes=("house", "tiger"))
    with pytest.raises(ConfigError, match="plus:v1 knows 4 classes, and 'tiger' is none") as caught:
        predict.run(unknown, store, name="none", device="cpu")
    assert "--model demo:v1" in caught.value.hint


def test_without_a_checkpoint_the_way_to_one_is_named(tmp_path: Path, photos: Path) -> None:
    """One sentence that says there is no checkpoint, and `sseg demo` as the shortest way."""
    with pytest.raises(ArtifactError, match="There is no checkpoint") as caught:
        _run(ArtifactStore(tmp_path / "empty"), photos)
    assert "sseg demo" in caught.value.hint


@pytest.mark.parametrize("option", [{"templates": ("a {}",)}, {"background_words": ("rock",)}])
def test_a_student_is_not_asked_with_words(
    tmp_path: Path, photos: Path, make_student: Callable[..., Artifact], option: dict[str, Any]
) -> None:
    """What has no meaning to it is refused rather than left aside."""
    store = ArtifactStore(tmp_path / "students")
    make_student(store, [*CLASSES], background=True)
    with pytest.raises(ConfigError, match="fixed classes"):
        _run(store, photos / "b.png", **option)


def test_a_student_asked_for_one_class_leaves_the_rest(
    tmp_path: Path, photos: Path, make_student: Callable[..., Artifact]
) -> None:
    """Without background of its own, its other classes are."""
    store = ArtifactStore(tmp_path / "students")
    make_student(store, [*CLASSES], background=False)
    image = str(photos / "b.png")
    shares = []
    for name in CLASSES:
        config = PredictConfig(images=(image,), classes=(name,))
        [entry] = _entries(predict.run(config, store))
        shares.append(1 - entry["background_share"])
    assert sum(shares) == pytest.approx(1, abs=0.01)  # ties go to what is asked for


MODEL = """
import numpy as np

def build():
    return lambda images, names: [np.zeros(image.shape[:2], int) for image in images]
"""


def test_any_model_of_eval_predicts(store: ArtifactStore, photos: Path, tmp_path: Path) -> None:
    """A plug-in, without probabilities; what it cannot tell is refused."""
    (tmp_path / "mine.py").write_text(MODEL)
    model = f"{tmp_path / 'mine.py'}:build"
    artifact = _run(store, photos / "b.png", model=model)
    assert artifact.manifest.parents == ()
    [entry] = _entries(artifact)
    [found] = entry["classes"]
    assert (found["name"], found["area_share"], found["mean_probability"]) == ("house", 1.0, None)
    with pytest.raises(ConfigError, match="threshold has no meaning"):
        _run(store, photos / "b.png", model=model, threshold=0.5)
    with pytest.raises(ConfigError, match="best class only"):
        _run(store, photos / "b.png", model=model, npz=True)
    with pytest.raises(ConfigError, match="benchmark's truth"):
        _run(store, photos / "b.png", model="oracle:lab")
    with pytest.raises(ConfigError, match="no kind of model 'clib'"):
        _run(store, photos / "b.png", model="clib:ViT-B-16")


def test_without_a_checkpoint_the_sentence_names_models_with_weights(
    tmp_path: Path, photos: Path
) -> None:
    """So that one can segment at once."""
    with pytest.raises(ArtifactError, match=r"no checkpoint.*maskclip:ViT-B-16"):
        _run(ArtifactStore(tmp_path / "empty"), photos)
