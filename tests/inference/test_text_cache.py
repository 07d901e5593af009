"""Text features on disk: a shortcut that never changes a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseg_core.inference.text_cache import Features, TextCache

WORDS = [f"word {number}" for number in range(50)]


class Encoder:
    """Draws features from the text, and remembers what it was asked."""

    def __init__(self, width: int = 6) -> None:
        self.width = width
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Features:
        self.asked.append(list(texts))
        rows = [np.random.default_rng(list(text.encode("utf-8", "replace"))) for text in texts]
        return np.stack([rng.standard_normal(self.width, np.float32) for rng in rows])


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_only_unseen_texts_are_encoded(tmp_path: Path, encoder: Encoder) -> None:
    """Another cache object on the same folder knows the first 47 words and asks for three."""
    first = TextCache(tmp_path).get_or_encode("id", WORDS[:47], encoder)
    again = TextCache(tmp_path).get_or_encode("id", WORDS[::-1], encoder)
    assert encoder.asked[1:] == [WORDS[:46:-1]]
    assert np.array_equal(first, Encoder()(WORDS[:47]))
    assert np.array_equal(again, Encoder()(WORDS[::-1]))
    assert again.dtype == np.float32


def test_a_thousand_names_are_a_few_files(tmp_path: Path, encoder: Encoder) -> None:
    """1203 names make at most 16 files, with nothing left of the writing."""
    TextCache(tmp_path).get_or_encode("id", [f"class {i}" for i in range(1203)], encoder)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 1 <= len(files) <= 16
    assert {path.suffix for path in files} == {".npy"}


def test_equal_texts_are_encoded_once(tmp_path: Path, encoder: Encoder) -> None:
    """A text that is asked for twice has two equal rows."""
    rows = TextCache(tmp_path).get_or_encode("id", ["cat", "dog", "cat"], encoder)
    assert encoder.asked == [["cat", "dog"]]
    assert np.array_equal(rows[0], rows[2])


def test_encoders_do_not_share_features(tmp_path: Path, encoder: Encoder) -> None:
    """Another identity asks its own encoder for the same text."""
    cache = TextCache(tmp_path)
    cache.get_or_encode("one/../../x", ["cat"], encoder)
    other = cache.get_or_encode("other", ["cat"], Encoder(width=9))
    assert other.shape == (1, 9)
    assert all(path.is_relative_to(tmp_path / "texts-v1") for path in tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-3],
        lambda data: b"PK\x03\x04" + data,
        lambda data: b"not at all NumPy's",
        lambda data: data[:9] + b"\xff" * 40 + data[49:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.replace(b"features", b"featured"),
    ],
    ids=["empty", "cut", "zip", "text", "header", "one bit", "other fields"],
)
def test_a_damaged_file_is_encoded_again_and_replaced(
    tmp_path: Path, encoder: Encoder, damage: object
) -> None:
    """Whatever is in the files, the features are right, and the next run finds them."""
    cache = TextCache(tmp_path)
    cache.get_or_encode("id", WORDS, encoder)
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert np.array_equal(cache.get_or_encode("id", WORDS, encoder), Encoder()(WORDS))
    assert len(encoder.asked) == 2
    cache.get_or_encode("id", WORDS, encoder)
    assert len(encoder.asked) == 2


def test_a_foreign_array_is_ignored(tmp_path: Path, encoder: Encoder) -> None:
    """A plain array, an archive of arrays and rows of another width are no features of ours."""
    cache = TextCache(tmp_path)
    cache.get_or_encode("id", WORDS, encoder)
    paths = sorted(tmp_path.rglob("*.npy"))
    other = TextCache(tmp_path / "other")
    other.get_or_encode("id", WORDS, Encoder(width=3))
    np.save(paths[0], np.zeros((4, 6), np.float32))
    with paths[1].open("wb") as stream:
        np.savez(stream, key=np.zeros(3))
    wide = {path.name: path for path in (tmp_path / "other").rglob("*.npy")}
    paths[2].write_bytes(wide[paths[2].name].read_bytes())
    result = cache.get_or_encode("id", WORDS, encoder)
    assert np.array_equal(result, Encoder()(WORDS))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, encoder: Encoder) -> None:
    """A file in the place of the folder keeps nothing, and everything is encoded each time."""
    (tmp_path / "file").write_text("in the way")
    cache = TextCache(tmp_path / "file")
    for _ in range(2):
        assert np.array_equal(cache.get_or_encode("id", WORDS, encoder), Encoder()(WORDS))
    assert encoder.asked == [WORDS, WORDS]


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing fails half way, the features are returned and no partial file stays."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    result = TextCache(tmp_path).get_or_encode("id", WORDS, encoder)
    assert np.array_equal(result, Encoder()(WORDS))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$SSEG_CACHE comes before $XDG_CACHE_HOME/sseg, and that before ~/.cache/sseg."""
    for name in ("SSEG_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, folder in (
        ("SSEG_CACHE", "SSEG_CACHE"),
        ("XDG_CACHE_HOME", "XDG_CACHE_HOME/sseg"),
        ("HOME", "HOME/.cache/sseg"),
    ):
        TextCache().get_or_encode("id", ["cat"], Encoder())
        assert list((tmp_path / folder).rglob("*.npy"))
        monkeypatch.delenv(name)


def test_a_user_without_a_home_has_no_cache(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container with an unknown user: nothing is kept, nothing fails."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SSEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    for _ in range(2):
        TextCache().get_or_encode("id", ["cat"], encoder)
    assert len(encoder.asked) == 2


@given(st.lists(st.lists(st.text(), min_size=1, max_size=5), min_size=1, max_size=4))
def test_any_texts_in_any_order_come_back_right(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]]
) -> None:
    """Whatever was asked before, each call returns what the encoder alone would."""
    cache = TextCache(tmp_path_factory.mktemp("cache"))
    for texts in calls:
        assert np.array_equal(cache.get_or_encode("id", texts, Encoder()), Encoder()(texts))
