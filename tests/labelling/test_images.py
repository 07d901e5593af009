"""Which images are labelled, and what is looked for in them."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import LabelConfig
from sseg_core.data.images import ImageError
from sseg_core.data.toyworld import CLASSES, render_scene
from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES
from sseg_core.labelling.images import UnlabelledImages, open_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of different widths in a folder and its subfolders, and what is none."""
    folder = tmp_path / "photos"
    names = ("b.jpg", "a/b.PNG", "a/c/ü\n\x1b[31m.jpeg", "a b/1.webp", "z.gif")
    for width, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 2)).save(folder / name)
    for name in ("notes.txt", ".hidden.jpg", ".thumbs/b.jpg", "._b.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def _open(tmp_path: Path, **options: Any) -> UnlabelledImages:
    return open_images(LabelConfig(**options), ArtifactStore(tmp_path / "store"))


def test_photos_are_known_by_their_paths_below_the_folder(photos: Path, tmp_path: Path) -> None:
    """Sorted, subfolders included; hidden files and other kinds are left out."""
    images = _open(tmp_path, images=str(photos), classes=("cat", "dog"))
    assert images.keys == ("a b/1.webp", "a/b.PNG", "a/c/ü\n\x1b[31m.jpeg", "b.jpg", "z.gif")
    assert [images.image(key).shape[1] for key in images.keys] == [4, 2, 3, 1, 5]
    assert images.source["images"] == str(photos)
    assert images.source["benchmark"] is None
    limited = _open(tmp_path, images=str(photos), classes=("cat", "dog"), limit=2)
    assert (len(limited), limited.keys) == (2, images.keys[:2])
    read = pickle.loads(pickle.dumps(images.image))
    assert np.array_equal(read("b.jpg"), images.image("b.jpg"))


@pytest.mark.parametrize("key", ["../secret.jpg", "/etc/passwd", "a/../b.jpg", ".hidden.jpg", ""])
def test_only_known_keys_are_read(photos: Path, tmp_path: Path, key: str) -> None:
    """A key from somebody's file is no path, even if it leads to an image."""
    Image.new("RGB", (3, 3)).save(tmp_path / "secret.jpg")
    images = _open(tmp_path, images=str(photos), classes=("cat",), limit=4)
    with pytest.raises(ImageError, match="is none of those that were labelled"):
        images.image(key)
    with pytest.raises(ImageError, match="is none of those"):
        images.image("z.gif")  # beyond the limit


def test_a_file_name_that_is_no_text_is_a_key(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 come back as they are."""
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    shutil.copy(os.fsencode(tmp_path / "a.png"), folder + b"/\xff.png")
    images = _open(tmp_path, images=os.fsdecode(folder), classes=("cat",))
    assert images.image(images.keys[0]).shape == (2, 3, 3)


def test_classes_of_ones_own_have_background_with_a_threshold(photos: Path, tmp_path: Path) -> None:
    """Without one every pixel has a class; names are checked."""
    given: dict[str, Any] = {"images": str(photos), "classes": ("cat", " dog ")}
    images = _open(tmp_path, **given)
    assert images.benchmark.class_names == ("cat", "dog")
    assert not images.benchmark.has_background
    assert _open(tmp_path, **given, threshold=0.3).benchmark.has_background
    assert _open(tmp_path, **given, background="words").benchmark.has_background
    assert not _open(tmp_path, **given, background="exclude").benchmark.has_background
    with pytest.raises(ConfigError, match="are the same"):
        _open(tmp_path, images=str(photos), classes=("cat", "Cat"))
    named = ("Background", "cat")
    assert _open(tmp_path, images=str(photos), classes=named).benchmark.class_names == named
    with pytest.raises(ConfigError, match="it is a class as well"):
        _open(tmp_path, images=str(photos), classes=named, threshold=0.3)


def test_photos_with_the_classes_of_a_benchmark(
    photos: Path, tmp_path: Path, real_data: Path
) -> None:
    """Its name, which protocols know, its classes and its background; its images are not meant."""
    root = str(real_data / "voc-mini")
    images = _open(tmp_path, images=str(photos), benchmark="voc2012", root=root, split="other")
    assert (images.name, images.benchmark.class_names) == ("voc2012", VOC_CLASSES)
    assert images.benchmark.has_background
    assert images.keys[0] == "a b/1.webp"
    with pytest.raises(ImageError, match="nobody labelled it"):
        images.benchmark.load("b.jpg")


def test_a_benchmark_without_val_has_classes_too(photos: Path, tmp_path: Path) -> None:
    """Its split is then the one that is named."""
    root = tmp_path / "own"
    for part in ("images/train", "masks/train"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("background\ncat\n")
    Image.new("RGB", (3, 2)).save(root / "images/train/a.jpg")
    Image.new("L", (3, 2)).save(root / "masks/train/a.png")
    images = _open(tmp_path, images=str(photos), benchmark=f"folder:{root}")
    assert images.benchmark.class_names == ("cat",)
    assert len(images) == 5
    with pytest.raises(DataError, match="no split 'other'"):
        _open(tmp_path, images=str(photos), benchmark=f"folder:{root}", split="other")


def test_the_toy_world_has_as_many_scenes_as_are_asked_for(tmp_path: Path) -> None:
    """6000 of the split train by default, the ones that a model of the demo learned from."""
    images = _open(tmp_path)
    assert (len(images), images.benchmark.class_names) == (6000, CLASSES)
    assert np.array_equal(images.image("000041"), render_scene(0, 41, 96).image)
    assert len(_open(tmp_path, limit=300)) == 300
    assert len(_open(tmp_path, split="val")) == 200
    assert len(_open(tmp_path, split="val", limit=5)) == 5


def test_the_truth_of_a_benchmark_is_not_read(tmp_path: Path, real_data: Path) -> None:
    """The photos of a split, whatever its label images hold; nothing is written to the store."""
    home = tmp_path / "VOC2012"
    shutil.copytree(real_data / "voc-mini/VOC2012/ImageSets", home / "ImageSets")
    (home / "JPEGImages").symlink_to(real_data / "voc-mini/VOC2012/JPEGImages")
    (home / "SegmentationClass").mkdir()
    for path in (real_data / "voc-mini/VOC2012/SegmentationClass").iterdir():
        (home / "SegmentationClass" / path.name).write_bytes(b"no label image")
    images = _open(tmp_path, benchmark="voc2012", root=str(tmp_path), limit=3)
    assert [images.image(key).ndim for key in images.keys] == [3, 3, 3]
    assert images.source == {
        "benchmark": "voc2012", "split": "train", "root": str(tmp_path), "images": None,
    }  # fmt: skip
    coco = _open(
        tmp_path, benchmark="coco-object", root=str(real_data / "coco-mini"), split="val", limit=2
    )
    assert coco.image(coco.keys[0]).shape[2] == 3
    assert not (tmp_path / "store").exists()


def test_what_does_not_go_together_is_refused(photos: Path, tmp_path: Path) -> None:
    """One sentence each, and what to do."""
    with pytest.raises(ConfigError, match="no photos in which to look"):
        _open(tmp_path, classes=("cat",))
    with pytest.raises(ConfigError, match="not said which classes"):
        _open(tmp_path, images=str(photos))
    with pytest.raises(ConfigError, match="those of the benchmark voc2012 too"):
        _open(tmp_path, images=str(photos), classes=("cat",), benchmark="voc2012", root="x")
    with pytest.raises(DataError, match=r"folder .*nowhere cannot be read: no such file"):
        _open(tmp_path, images=str(tmp_path / "nowhere"), classes=("cat",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no photo in .*empty.*\.jpg"):
        _open(tmp_path, images=str(tmp_path / "empty"), classes=("cat",))
    with pytest.raises(ConfigError, match="no benchmark 'voc'"):
        _open(tmp_path, benchmark="voc", root="x")
