"""Text to token ids: CLIP's byte-pair encoding, with a cache of words.

Gives the ids of open_clip's `SimpleTokenizer`, and gives them faster: what a stretch of text
between two blanks becomes depends on nothing around it, so it is encoded once and remembered,
and text of printable ASCII without an `&` skips the repair of broken Unicode and HTML, which
would leave it as it is.

No torch here: the ids are a NumPy array, so that the exported runtime can use this file.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import html
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import regex

from sseg_core.errors import ConfigError, SsegError

START_ID = 49406
"""Id of [SOS]."""
END_ID = 49407
"""Id of [EOS], the largest of all: `argmax` over the ids of a text finds its end."""
PAD_ID = 0
VOCAB_SIZE = 49408

_MERGES = VOCAB_SIZE - 512 - 2  # 256 bytes, 256 bytes that end a word, [SOS] and [EOS]
_SPECIAL = {"<start_of_text>": START_ID, "<end_of_text>": END_ID}
_TOKEN = regex.compile(
    "|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)

# Bounds of the word cache (our choice): some 30 MB when full.
_CACHED_WORDS = 1 << 16
_CACHED_LENGTH = 40


@dataclass(frozen=True)
class Tokenizer:
    """Turns texts into fixed-length rows of token ids.

    Light to build, pickle and copy: the tables are loaded by the first text and shared by all
    tokenizers of the process.

    Attributes:
        context_length: L, tokens in a row with [SOS] and [EOS] (paper App. A.1: 77).
        table: CLIP's merge table, gzipped; None for the one that comes with open_clip_torch.
    """

    context_length: int = 77
    table: Path | None = None

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise ConfigError(
                f"A context of {self.context_length} tokens cannot hold [SOS] and [EOS].",
                "Set context_length to 2 or more; CLIP uses 77.",
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, all of them, without [SOS] and [EOS].

        Raises:
            SsegError: the merge table is not installed.
        """
        ids: list[int] = []
        word_ids = _word_ids(self.table)
        for word in _cleaned_words(text):
            ids += word_ids[word]
        return ids

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the ids of B texts as [B, L] int64: [SOS], the text, [EOS], then `PAD_ID`.

        A text that is too long loses its end; its row still ends in [EOS].

        Raises:
            SsegError: the merge table is not installed.
        """
        room = self.context_length - 2
        word_ids = _word_ids(self.table)
        rows = []
        for text in texts:
            row = [START_ID]
            for word in _cleaned_words(text):
                row += word_ids[word]
                if len(row) > room:
                    del row[room + 1 :]
                    break
            row.append(END_ID)
            rows.append(row)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        token_ids_BL = np.full((len(rows), self.context_length), PAD_ID, np.int64)
        filled_BL = np.arange(self.context_length) < lengths[:, None]
        # One assignment for the whole batch: a row at a time costs as much as the encoding.
        token_ids_BL[filled_BL] = np.fromiter(
            chain.from_iterable(rows), np.int64, int(lengths.sum())
        )
        return token_ids_BL


def _cleaned_words(text: str) -> list[str]:
    """Return the lower-case text, repaired and unescaped as open_clip does, split at blanks."""
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy  # 50 ms to import, and most captions never need it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return text.lower().split()


class _WordIds(dict[str, tuple[int, ...]]):
    """Maps a stretch of text without blanks to its ids; fills itself, up to a limit."""

    def __init__(self, table: Path) -> None:
        super().__init__()
        self._merged_ids = _read_merges(table)
        # The rule "ab c" makes the token "abc"; no two rules make the same one.
        self._token_ids = {merge.replace(" ", ""): id_ for merge, id_ in self._merged_ids.items()}
        self._letters = _byte_letters()
        for id_, letter in enumerate(self._letters.values()):
            self._token_ids[letter] = id_
            self._token_ids[f"{letter}</w>"] = id_ + 256

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for token in _TOKEN.findall(word):
            if token in _SPECIAL:
                ids.append(_SPECIAL[token])
                continue
            letters = token.encode().decode("latin-1").translate(self._letters) + "</w>"
            # The merges of a word that is a token lead to that token: a test goes through all.
            if letters in self._token_ids:
                ids.append(self._token_ids[letters])
                continue
            symbols = [*letters[:-5], letters[-5:]]
            ids += [self._token_ids[symbol] for symbol in _merge(symbols, self._merged_ids)]
        result = tuple(ids)
        if len(word) <= _CACHED_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = result
        return result


@functools.cache
def _word_ids(table: Path | None) -> _WordIds:
    return _WordIds(table or installed_table())


def installed_table() -> Path:
    """Return CLIP's merge table in the installed open_clip, without importing that package."""
    try:
        package = metadata.distribution("open_clip_torch")
    except metadata.PackageNotFoundError as error:
        raise SsegError(
            "The tokenizer's merge table comes with open_clip_torch, which is not installed.",
            "Run: pip install open_clip_torch",
        ) from error
    return Path(str(package.locate_file("open_clip/bpe_simple_vocab_16e6.txt.gz")))


def _read_merges(path: Path) -> dict[str, int]:
    """Return the rules, each "left right", with the id of the token it makes, in their order."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        # The first line is a comment; strict: a table that is too short is not CLIP's.
        return dict(zip(lines[1 : _MERGES + 1], range(512, 512 + _MERGES), strict=True))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SsegError(
            f"Cannot read the tokenizer's merge table {path}.",
            "Run: pip install --force-reinstall --no-deps open_clip_torch (or export again, if it "
            "is that of an export).",
        ) from error


def _byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in the table, in the order of their ids.

    Bytes that print in Latin-1 stand for themselves and come first; the rest (blanks, controls,
    the soft hyphen) take the letters from U+0100 on.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printing}
    others = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def _merge(symbols: list[str], merged_ids: dict[str, int]) -> list[str]:
    """Merge neighbours by the rules of the table, the earliest rule first, until none applies.

    A rule only takes symbols that earlier rules made, so a merge never enables an earlier rule,
    and the pairs can wait in one heap ordered by rule, then by place. That is O(n log n): a
    caption of one 10,000-letter "word" must not stop a loader worker. `symbols` is changed.
    """
    count = len(symbols)
    following = list(range(1, count + 1))
    preceding = list(range(-1, count - 1))
    heap = [
        (merged_ids[pair], left)
        for left, pair in enumerate(map(" ".join, pairwise(symbols)))
        if pair in merged_ids
    ]
    heapq.heapify(heap)
    while heap:
        rule, left = heapq.heappop(heap)
        right = following[left]
        # An entry is stale once either symbol has changed: a merged-away one is empty.
        if right == count or merged_ids.get(f"{symbols[left]} {symbols[right]}") != rule:
            continue
        symbols[left] += symbols[right]
        symbols[right] = ""
        after, before = following[right], preceding[left]
        following[left] = after
        if after < count:
            preceding[after] = left
            if new_rule := merged_ids.get(f"{symbols[left]} {symbols[after]}"):
                heapq.heappush(heap, (new_rule, left))
        if before >= 0 and (new_rule := merged_ids.get(f"{symbols[before]} {symbols[left]}")):
            heapq.heappush(heap, (new_rule, before))
    return [symbol for symbol in symbols if symbol]
