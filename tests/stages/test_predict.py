"""`sseg predict` from photos to overlays, label maps and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PredictConfig
from sseg_core.errors import ArtifactError, ConfigError, DataError
from sseg_core.stages import predict
from sseg_core.stages.predict import expand_images

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


def _document(artifact: Artifact) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(artifact.file("predictions.json").read_text())
    return document


def test_every_image_gets_pictures_and_an_entry(store: ArtifactStore, photos: Path) -> None:
    """A folder and a file: entries in order, pictures that open, numbers that agree."""
    artifact = _run(store, photos, photos / "more" / "a.png")
    document = _document(artifact)
    assert artifact.reference == "predictions:v1"
    assert artifact.manifest.parents[0].name == "random"
    assert (document["model"], document["image_size"]) == ("random:v1", 64)
    images = document["images"]
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
        for index, entry in enumerate(image["classes"]):
            assert entry["name"] == CLASSES[index]
            assert entry["area_share"] == pytest.approx((labels == index + 1).mean())
            if entry["rle"] is not None:
                assert np.array_equal(coco_mask.decode(entry["rle"]), labels == index + 1)
    assert artifact.manifest.stats["images"] == 3
    assert artifact.manifest.stats["failed"] == {}


def test_images_of_one_name_do_not_overwrite_each_other(store: ArtifactStore, photos: Path) -> None:
    """a.JPG and more/a.png become a.* and a-2.*."""
    artifact = _run(store, photos / "a.JPG", photos / "more" / "a.png")
    labels = [image["label_map"] for image in _document(artifact)["images"]]
    assert labels == ["a.labels.png", "a-2.labels.png"]


@pytest.mark.parametrize("stem", ["..", "-rf", "a b;c", "\u732b", "x" * 200, "\x1b[31m"])
def test_file_names_of_strangers_become_safe_ones(
    store: ArtifactStore, tmp_path: Path, stem: str
) -> None:
    """Whatever a photo is called, its pictures lie in the artifact under plain names."""
    path = tmp_path / f"{stem}.png"
    Image.new("RGB", (8, 8), "red").save(path, format="PNG")
    artifact = _run(store, path)
    [entry] = _document(artifact)["images"]
    assert entry["file"] == str(path)
    assert artifact.file(entry["overlay"]).parent == artifact.path
    assert entry["overlay"].isascii()
    assert entry["overlay"][0].isalnum()
    assert " " not in entry["overlay"]


def test_a_bad_image_does_not_stop_the_others(store: ArtifactStore, photos: Path) -> None:
    """It stands in its place with the error and the reason, and is counted."""
    (photos / "a.JPG").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    artifact = _run(store, photos)
    bad, good = _document(artifact)["images"]
    assert bad["file"].endswith("a.JPG")
    assert bad["error"].endswith(".")
    assert "classes" not in bad
    assert len(good["classes"]) == 3
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
    [entry] = _document(artifact)["images"]
    with Image.open(artifact.file(entry["label_map"])) as labels:
        assert np.array(labels).max() == 0
    assert entry["background_share"] == 1


def test_a_rerun_leaves_out_what_an_interrupted_run_left(
    store: ArtifactStore, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a run that was stopped midway do not slip into the next one."""
    render = predict.palette_png

    def stop(*arguments: Any) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "palette_png", stop)
    with pytest.raises(KeyboardInterrupt):
        _run(store, photos)
    work = next((store.root / "predictions/predictions").glob(".work-*/artifact"))
    (work / "old.overlay.png").write_bytes(b"left over")
    monkeypatch.setattr(predict, "palette_png", render)
    artifact = _run(store, photos)
    assert len(artifact.manifest.files) == 5
    assert artifact.problems() == []


def test_inputs_are_expanded_once_each_in_order(photos: Path) -> None:
    """Files, folders without their subfolders, and globs; a repeated file counts once."""
    a, b, more = photos / "a.JPG", photos / "b.png", photos / "more/a.png"
    (photos / "c[1].png").write_bytes(b.read_bytes())
    assert expand_images([str(b), str(photos)]) == [b, a, photos / "c[1].png"]
    assert expand_images([str(photos / "*.png")]) == [b, photos / "c[1].png"]
    assert expand_images([str(photos / "**" / "a.*")]) == [a, more]
    assert expand_images([str(photos / "c[1].png")]) == [photos / "c[1].png"]
    assert expand_images([str(photos / "notes.txt")]) == [photos / "notes.txt"]


@pytest.mark.parametrize("missing", ["nothing.png", "empty", "*.webp"])
def test_an_input_that_matches_nothing_is_an_error(photos: Path, missing: str) -> None:
    """A missing file, a folder without images and an idle glob are named before any work."""
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="There is no"):
        expand_images([str(photos), str(photos / missing)])


def test_bad_words_are_refused_before_any_work(store: ArtifactStore, photos: Path) -> None:
    """The same class twice or a template without a place for it; nothing is left behind."""
    config = PredictConfig(images=(str(photos),), classes=("cat", "Cat"))
    with pytest.raises(ConfigError, match="the same"):
        predict.run(config, store, device="cpu")
    with pytest.raises(ConfigError, match="template"):
        _run(store, photos, template="a photo")
    assert not (store.root / "predictions").exists()


def test_a_student_is_used_like_any_other_checkpoint(
    tmp_path: Path, photos: Path, make_student: Callable[..., Artifact]
) -> None:
    """Background is where it says so; what it was not taught is refused before any work."""
    store = ArtifactStore(tmp_path / "students")
    make_student(store, [*CLASSES, "cat"], background=True, stats={"teacher": "demo:v1"})
    artifact = _run(store, photos / "b.png")
    document = _document(artifact)
    assert (document["image_size"], document["template"]) == (64, None)
    [entry] = document["images"]
    with Image.open(artifact.file(entry["label_map"])) as labels:
        values = np.array(labels)
    assert set(np.unique(values)) <= {0, 1, 2, 3}
    assert entry["background_share"] == pytest.approx((values == 0).mean())
    unknown = PredictConfig(images=(str(photos),), classes=("house", "tiger"))
    with pytest.raises(ConfigError, match="plus:v1 knows 4 classes, and 'tiger' is none") as caught:
        predict.run(unknown, store, name="none", device="cpu")
    assert "--model demo:v1" in caught.value.hint
    with pytest.raises(ConfigError, match="knows classes, not words"):
        _run(store, photos, template="a photo of a {}")
    assert not (store.root / "predictions" / "none").exists()


def test_without_a_checkpoint_the_way_to_one_is_named(tmp_path: Path, photos: Path) -> None:
    """One sentence that says there is no checkpoint, and `sseg demo` as the shortest way."""
    with pytest.raises(ArtifactError, match="There is no checkpoint") as caught:
        _run(ArtifactStore(tmp_path / "empty"), photos)
    assert "sseg demo" in caught.value.hint
