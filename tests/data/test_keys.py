"""Names of strangers become keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseg_core.data.keys import safe_key, unique_keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("images/cat", "images_cat"),
        ("../../etc/passwd", "etc_passwd"),
        ("a.b.c", "a_b_c"),
        ("C:\\photos\\cat", "C_photos_cat"),
        ("Caf\u00e9 \u5bff\u53f8\x00\n", "Cafe"),
        ("\u5bff\u53f8", "sample"),
        ("", "sample"),
        ("__meta__", "meta"),
        ("x" * 300 + "end", "x" * 77 + "end"),
    ],
)
def test_safe_keys(text: str, key: str) -> None:
    """A key keeps what can be kept of a name, and never is a path or holds a dot."""
    assert safe_key(text) == key


@given(st.lists(st.text(max_size=120), max_size=20))
def test_keys_are_safe_and_unique(texts: list[str]) -> None:
    """Whatever the names, there are as many different keys, all plain and of bounded length."""
    keys = unique_keys(texts)
    assert len(set(keys)) == len(texts)
    assert keys == unique_keys(texts)
    for key in keys:
        assert key.isascii()
        assert key.replace("_", "").replace("-", "").isalnum()
        assert 1 <= len(key) <= 90


def test_names_that_give_one_key_all_survive() -> None:
    """Names that differ only in what a key cannot hold get numbered, around a name already so."""
    assert unique_keys(["a/b", "a.b", "a_b-2", "a_b"]) == ["a_b", "a_b-2", "a_b-2-2", "a_b-3"]
