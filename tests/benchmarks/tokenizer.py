"""Captions per second of our tokenizer and of open_clip's, on the same captions in one run.

    python tests/benchmarks/tokenizer.py [DATA_DIR]

DATA_DIR (default: $SSEG_DATA) holds pairs-mini and coco-mini. A cold pass starts with an empty
word cache; a warm pass repeats the same captions. The two tokenizers take turns, and the best of
the rounds counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from sseg_core.text import tokenizer as ours

ROUNDS = 5
Tokenize = Callable[[Sequence[str]], object]


def captions(data: Path) -> list[str]:
    """Return every caption of pairs-mini and coco-mini."""
    lines = (data / "pairs-mini/captions.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [caption for line in lines for caption in json.loads(line)["captions"]]
    coco = (data / "coco-mini/annotations/captions_val2017.json").read_text(encoding="utf-8")
    return texts + [annotation["caption"] for annotation in json.loads(coco)["annotations"]]


def cold_ours() -> Tokenize:
    """Return our tokenizer with its tables loaded and no word remembered."""
    ours._word_ids(None).clear()
    return ours.Tokenizer()


def seconds(tokenize: Tokenize, texts: Sequence[str]) -> float:
    """Return the time of one pass."""
    begin = time.perf_counter()
    tokenize(texts)
    return time.perf_counter() - begin


def main() -> None:
    """Print captions/s, cold and warm, and the ratio."""
    default = os.environ.get("SSEG_DATA", Path(__file__).parents[3] / "shared/data")
    texts = captions(Path(sys.argv[1] if len(sys.argv) > 1 else default))
    makers: dict[str, Callable[[], Tokenize]] = {"open_clip": SimpleTokenizer, "sseg": cold_ours}
    np.testing.assert_array_equal(cold_ours()(texts), SimpleTokenizer()(texts))

    times: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            tokenize = make()
            for run in ("cold", "warm"):
                best = times.get((name, run), float("inf"))
                times[name, run] = min(best, seconds(tokenize, texts))

    print(f"{len(texts)} captions, identical ids, best of {ROUNDS}")
    print(f"{'pass':<6}{'open_clip/s':>12}{'sseg/s':>12}{'ratio':>8}")
    for run in ("cold", "warm"):
        theirs, mine = times["open_clip", run], times["sseg", run]
        print(
            f"{run:<6}{len(texts) / theirs:>12,.0f}{len(texts) / mine:>12,.0f}"
            f"{theirs / mine:>7.1f}x"
        )


if __name__ == "__main__":
    main()
