"""Our token ids are open_clip's, whatever the text."""

from __future__ import annotations

import copy
import gzip
import pickle
import random
import string
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from sseg_core.errors import ConfigError, SsegError
from sseg_core.text import tokenizer as module
from sseg_core.text.tokenizer import END_ID, START_ID, VOCAB_SIZE, Tokenizer

REFERENCE = SimpleTokenizer()

# What Hypothesis would take long to find by itself: text that the cleaning or a rule changes.
FRAGMENTS = [
    *("dog", "Dog's", "DON'T", "they're", "I'LL've", "t-shirt", "3d", "2024", "a_b", "..."),
    *(" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x1c", "\x85"),
    *("\u00a0", "\u2028", "\u200b", "\ufeff"),
    *("\x00", "\x07", "\x1b[31m", "\x7f", "\x9f", "\ud800", "\ufffe"),
    *("&", "&amp;", "&amp;lt;", "&lt;b&gt;", "&#39;", "&#x1F436;", "&nbsp;", "&ampdog", "&#0;"),
    *("<", "<start_of_text>", "<END_OF_TEXT>", "</w>", "<\u017ftart_of_text>"),
    *("\u00e9", "e\u0301", "\ufb01sh", "\uff24\uff2f\uff27"),
    *("\u0130", "\u1e9e", "\u0391\u03a3 \u03a3"),
    *("\u2019s", "'\u017f", "\u201cq\u201d", "\u2026", "\u00bd", "\u0661"),
    *("caf\u00c3\u00a9", "\u00e2\u20ac\u2122"),
    *("\u72d7", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0627\u0644", "\u1112\u1161\u11ab"),
    *("\U0001f436", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea"),
    *("\u2764\ufe0f", "\U0001f44d\U0001f3fd"),
]  # fmt: skip
texts = st.one_of(
    st.text(max_size=60),
    st.text(string.printable, max_size=60),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=30).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=120).map(" ".join),
)

TEN_THOUSAND = {
    "words": "a dog runs. " * 834,
    "one letter": "a" * 10_000,
    "one word": "".join(random.Random(0).choices(string.ascii_lowercase, k=10_000)),
    "punctuation": "!?" * 5000,
    "digits": "1" * 10_000,
    "accents": "\u00e9" * 10_000,
    "emoji": "\U0001f436" * 10_000,
    "entities": "&amp;" * 2000,
    "blanks": " " * 10_000,
}


@settings(max_examples=500, deadline=None, database=None)
@given(texts)
def test_any_text_has_the_ids_of_open_clip(text: str) -> None:
    """Unicode, emoji, entities, control characters and the empty text: the same ids."""
    assert Tokenizer().encode(text) == REFERENCE.encode(text)


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(texts, max_size=4), st.sampled_from([16, 77]))
def test_any_batch_has_the_rows_of_open_clip(batch: list[str], context_length: int) -> None:
    """Rows are [SOS], text, [EOS] and zeros, cut like open_clip's at either context length."""
    ours = Tokenizer(context_length)(batch)
    assert (ours.shape, ours.dtype) == ((len(batch), context_length), np.int64)
    np.testing.assert_array_equal(ours, REFERENCE(batch, context_length=context_length).numpy())


@pytest.mark.parametrize("context_length", [16, 77])
def test_real_captions_have_the_rows_of_open_clip(
    real_captions: list[str], context_length: int
) -> None:
    """Every caption of pairs-mini and coco-mini gets open_clip's row."""
    expected = REFERENCE(real_captions, context_length=context_length).numpy()
    np.testing.assert_array_equal(Tokenizer(context_length)(real_captions), expected)


@pytest.mark.parametrize("text", TEN_THOUSAND.values(), ids=TEN_THOUSAND.keys())
def test_a_text_of_10000_characters_is_cut_and_keeps_its_end(text: str) -> None:
    """Its ids are open_clip's, and its row ends in [EOS] at the last place it can."""
    ids = Tokenizer().encode(text)
    assert ids == REFERENCE.encode(text)
    row = Tokenizer()([text])[0]
    end = min(len(ids) + 1, 76)
    assert row.tolist() == [START_ID, *ids[: end - 1], END_ID] + [0] * (76 - end)


def test_the_smallest_contexts_and_no_texts_at_all() -> None:
    """A context of two holds the frame alone; no texts give no rows; one token is refused."""
    assert Tokenizer(2)(["a dog", ""]).tolist() == [[START_ID, END_ID]] * 2
    assert Tokenizer(3)(["a dog"]).tolist() == [[START_ID, *REFERENCE.encode("a"), END_ID]]
    assert Tokenizer()([]).shape == (0, 77)
    with pytest.raises(ConfigError, match="cannot hold"):
        Tokenizer(1)


def test_every_token_that_ends_a_word_is_reached_by_merging_its_letters() -> None:
    """The short cut for whole words is exact: no token of the table is missed by the merges."""
    table = module._word_ids(None)
    ends = [token for token in table._token_ids if token.endswith("</w>") and len(token) > 4]
    assert len(ends) > 30_000
    for token in ends:
        assert module._merge([*token[:-5], token[-5:]], table._merged_ids) == [token]


def test_a_rule_only_takes_what_earlier_rules_made() -> None:
    """Merging from one heap is exact: no merge enables an earlier rule, no two make one token."""
    table = module._word_ids(None)
    made = {rule.replace(" ", "") for rule in table._merged_ids}
    assert len(made) == len(table._merged_ids) == VOCAB_SIZE - 514
    for rule, id_ in table._merged_ids.items():
        assert all(table._token_ids[part] < id_ for part in rule.split(" "))


def test_a_full_word_cache_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache stays within its bounds, keeps no long word, and never changes the ids."""
    monkeypatch.setattr(module, "_CACHED_WORDS", 3)
    cache = module._word_ids(None)
    cache.clear()
    text = "one dog and two cats " + "x" * 41
    for _ in range(2):
        assert Tokenizer().encode(text) == REFERENCE.encode(text)
        assert len(cache) <= 3
    assert not any("xx" in word for word in cache)


def test_a_tokenizer_travels_to_another_process() -> None:
    """It pickles in a few bytes, copies, and works the same afterwards."""
    tokenizer = Tokenizer(16)
    tokenizer(["warm the cache"])
    data = pickle.dumps(tokenizer)
    assert len(data) < 200
    assert pickle.loads(data) == copy.deepcopy(tokenizer) == tokenizer
    np.testing.assert_array_equal(pickle.loads(data)(["a dog"]), tokenizer(["a dog"]))


def test_tokenizing_imports_neither_open_clip_nor_torch() -> None:
    """The exported runtime can tokenize without either; plain text does not even need ftfy."""
    code = (
        "import sys\n"
        "from sseg_core.text.tokenizer import Tokenizer\n"
        "Tokenizer()(['A dog runs on the beach.'])\n"
        "print(sorted({'torch', 'open_clip', 'ftfy'} & set(sys.modules)))\n"
        "Tokenizer()(['caf\\u00e9 &amp; bar'])\n"
        "print(sorted({'torch', 'open_clip', 'ftfy'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == ["[]", "['ftfy']"]


def test_a_missing_merge_table_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without open_clip_torch the error gives the pip command."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    module._word_ids.cache_clear()
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(SsegError) as error:
        Tokenizer()(["a dog"])
    assert error.value.hint == "Run: pip install open_clip_torch"


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"#version\ni n\nt h\n" * 9)[:-9],
        gzip.compress(b"#version\ni n\n"),
        gzip.compress(b"\xff" * 99),
    ],
    ids=["not gzip", "cut short", "too few rules", "not UTF-8"],
)
def test_a_damaged_merge_table_is_refused(tmp_path: Path, content: bytes) -> None:
    """A table that is not CLIP's never gives wrong ids silently."""
    path = tmp_path / "table.gz"
    path.write_bytes(content)
    with pytest.raises(SsegError, match="Cannot read the tokenizer's merge table"):
        module._WordIds(path)
    with pytest.raises(SsegError, match="Cannot read"):
        module._WordIds(tmp_path / "absent.gz")
