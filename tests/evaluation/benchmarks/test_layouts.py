"""The files of a benchmark are found, and missing ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks.layouts import (
    KeyedFiles,
    find_home,
    names_in,
    paired_keys,
    read_split,
    require_files,
    truth_source,
)

LAYOUT = "Expected: this."


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_home_is_the_root_or_below_it(tmp_path: Path) -> None:
    """The nearest folder with a sign is taken; none, and no root at all, are two errors."""
    _touch(tmp_path / "kit" / "home", "sign")

    def home(root: Path) -> Path:
        return find_home(root, below=("home", "kit/home"), signs=("sign",), what="X", layout=LAYOUT)

    for root in (tmp_path, tmp_path / "kit", tmp_path / "kit/home"):
        assert home(root) == tmp_path / "kit/home"
    _touch(tmp_path / "other")
    with pytest.raises(DataError, match=r"There is no folder .*nowhere\. Expected: this\."):
        home(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"There is no X in .*empty"):
        home(tmp_path / "empty")


def test_hidden_files_are_not_seen(tmp_path: Path) -> None:
    """macOS puts ._a.jpg beside a.jpg when it packs an archive."""
    _touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store")
    assert names_in(tmp_path, LAYOUT) == {"a.jpg"}
    with pytest.raises(DataError, match="missing is missing"):
        names_in(tmp_path / "missing", LAYOUT)
    with pytest.raises(DataError, match=r"a\.jpg cannot be read: not a directory"):
        names_in(tmp_path / "a.jpg", LAYOUT)


def test_keys_are_names_without_the_suffix(tmp_path: Path) -> None:
    """Other suffixes and names are left out; files in subfolders have these in their keys."""
    _touch(tmp_path, "1.png", "2_x.png", "3.jpg", "s/4.png", "t/5.png")
    assert KeyedFiles(tmp_path, ".png").keys(LAYOUT) == {"1", "2_x"}
    assert KeyedFiles(tmp_path, ".png", names=r"\d+").keys(LAYOUT) == {"1"}
    below = KeyedFiles(tmp_path, ".png", subfolders=("s", "t"))
    assert below.keys(LAYOUT) == {"s/4", "t/5"}
    assert below.path("s/4") == tmp_path / "s" / "4.png"


def test_a_split_is_a_list_of_keys(tmp_path: Path) -> None:
    """Empty lines do not count; an empty list, a key twice and another split are refused."""
    (tmp_path / "val.txt").write_text("b\r\n\n a \n")
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    assert read_split(tmp_path, "val", LAYOUT) == ("b", "a")
    with pytest.raises(DataError, match=r"none\.txt names no image"):
        read_split(tmp_path, "none", LAYOUT)
    with pytest.raises(DataError, match=r"twice\.txt names 'a' twice"):
        read_split(tmp_path, "twice", LAYOUT)
    with pytest.raises(DataError, match=r"no split '\.\./val'") as caught:
        read_split(tmp_path, "../val", LAYOUT)
    assert caught.value.hint == "It has: none, twice, val."


def test_missing_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    """So that one sees whether one file or half an archive is missing."""
    files = KeyedFiles(tmp_path, ".png")
    keys = tuple("abcd")
    require_files(keys, set(keys), files, what="masks", layout=LAYOUT)
    with pytest.raises(DataError, match=r"/b\.png is missing, of 4 masks\. Expected: this\."):
        require_files(keys, {"a", "c", "d"}, files, what="masks", layout=LAYOUT)
    with pytest.raises(DataError, match=r"/b\.png and 2 more are missing, of 4 masks\."):
        require_files(keys, {"a"}, files, what="masks", layout=LAYOUT)


def test_images_and_label_images_must_be_the_same_ones(tmp_path: Path) -> None:
    """Keys are sorted; either half missing is an error, and so is nothing at all."""
    images = KeyedFiles(_touch(tmp_path / "i", "b.jpg", "a.jpg"), ".jpg")
    truths = KeyedFiles(_touch(tmp_path / "t", "a.png", "b.png"), ".png")
    assert paired_keys(images, truths, LAYOUT) == ("a", "b")
    _touch(truths.folder, "c.png", "d.png")
    with pytest.raises(DataError, match=r"i/c\.jpg and 1 more are missing, of 4 images of"):
        paired_keys(images, truths, LAYOUT)
    _touch(images.folder, "c.jpg", "d.jpg", "e.jpg")
    with pytest.raises(DataError, match=r"t/e\.png is missing, of 5 label images of"):
        paired_keys(images, truths, LAYOUT)
    with pytest.raises(DataError, match="There is no image in"):
        paired_keys(KeyedFiles(tmp_path, ".gif"), KeyedFiles(tmp_path, ".gif"), LAYOUT)


def test_a_part_of_a_split_is_called_so() -> None:
    """Nobody takes a score on 100 images for one on the published 1449."""
    assert truth_source("masks", found=1449, published=1449) == "masks"
    assert truth_source("masks", found=7, published=None) == "masks"
    assert truth_source("masks", found=100, published=1449) == "masks, 100 of the 1,449 images"
