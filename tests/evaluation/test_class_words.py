"""A user's file of the words for each class."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from sseg_core.errors import ConfigError
from sseg_core.evaluation.class_words import ClassWords, read_class_words
from sseg_core.evaluation.examples import Benchmark


def _never(key: str) -> NoReturn:
    raise AssertionError(key)


BENCHMARK = Benchmark("b", ("cat", "dog", "tv"), True, ("1",), _never, _never)


def _read(folder: Path, text: str) -> ClassWords:
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    return read_class_words(str(path), BENCHMARK)


def test_lines_by_name(tmp_path: Path) -> None:
    """In any order, and only for the classes that differ; background among them."""
    words = _read(tmp_path, "# mine\ntv: tv monitor, screen\n\nbackground: sky, wall\ncat: cat\n")
    assert words == ClassWords({"tv": ("tv monitor", "screen"), "cat": ("cat",)}, ("sky", "wall"))


def test_lines_by_order(tmp_path: Path) -> None:
    """A line for each class, in the benchmark's order, as others publish them."""
    assert _read(tmp_path, "kitten\ndog, puppy\ntv\n").words == {
        "cat": ("kitten",),
        "dog": ("dog", "puppy"),
        "tv": ("tv",),
    }
    assert _read(tmp_path, "sky, wall\ncat\ndog\ntv").background == ("sky", "wall")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ntv\ndog", "another order than b: class 2 is 'tv', the benchmark has 'dog'"),
        ("sky\ncat\ntv\ndog", "another order than b: class 2 is 'tv'"),
        ("cat\ndog", "has 2 lines, but b has 3 classes"),
        ("cow: cow", "a line for 'cow', which is no class of b"),
        ("cat: cat\ncat: kitten", "two lines for 'cat'"),
        ("cat: ", "Class name 1 of 1 is empty"),
        ("cat: kitten, Kitten", "'kitten' and 'Kitten' are the same"),
    ],
)
def test_what_does_not_fit_the_benchmark_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    """The sentence names the line."""
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Missing, or no text."""
    with pytest.raises(ConfigError, match="Cannot read the class words"):
        read_class_words(str(tmp_path / "none.txt"), BENCHMARK)
    binary = tmp_path / "photo.jpg"
    binary.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read_class_words(str(binary), BENCHMARK)
