"""Keys: the names of samples and of what is made of them, whatever strangers call their files."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_LENGTH = 80  # leaves room for a suffix, and for `.mask.png` in a tar name of 100 bytes


def safe_key(text: str) -> str:
    """Return `text` as a key: ASCII letters, digits, `_` and `-`, 1 to 80 of them.

    A key never is a path, and holds no dot, since webdataset ends it at the first one. Different
    texts can give the same key; see `unique_keys`.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_text)
    # The end of a long path tells files apart, not its beginning.
    return slug[-_LENGTH:].strip("_-") or "sample"


def unique_keys(texts: Iterable[str]) -> list[str]:
    """Return one key per text, in order; of equal ones, the later get `-2`, `-3`, ..."""
    used: set[str] = set()
    next_number: Counter[str] = Counter()
    keys = []
    for text in texts:
        base = key = safe_key(text)
        while key in used:
            next_number[base] += 1
            key = f"{base}-{next_number[base] + 1}"
        used.add(key)
        keys.append(key)
    return keys
