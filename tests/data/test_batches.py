"""Words, ids and masks of a batch."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from sseg_core.data import batches
from sseg_core.data.batches import decode_mask, with_fewer_words
from sseg_core.data.images import ImageError
from sseg_core.data.token_rows import trimmed
from sseg_core.text.tokenizer import END_ID, Tokenizer


@pytest.mark.parametrize("dropout", [0.0, 0.4, 0.99])
def test_word_dropout_leaves_out_words_but_never_all(dropout: float) -> None:
    """The words left are in their order, about the promised share of them, at least one."""
    rng = random.Random(0)
    words = ["house", "tree", "sun", "star", "minion", "boat"]
    texts = [with_fewer_words(" ".join(words), dropout, rng) for _ in range(500)]
    kept = [text.split() for text in texts]
    assert all(part and part == [word for word in words if word in part] for part in kept)
    share = sum(map(len, kept)) / (500 * len(words))
    assert share == pytest.approx(max(1 - dropout, 1 / len(words)), abs=0.03)
    assert with_fewer_words("", dropout, rng) == ""


@pytest.mark.parametrize(
    ("words", "context_length", "expected"), [(1, 77, 8), (6, 77, 8), (7, 77, 16), (99, 77, 77)]
)
def test_ids_are_trimmed_to_the_longest_text(
    words: int, context_length: int, expected: int
) -> None:
    """Up to a multiple of 8, never beyond the context, and never through an [EOS]."""
    whole = Tokenizer(context_length)(["cat " * words, "dog"])
    ids = trimmed(whole)
    assert ids.shape == (2, expected)
    assert ids.flags.c_contiguous
    assert (ids == whole[:, :expected]).all()
    assert (ids == END_ID).sum(axis=1).tolist() == [1, 1]


def png(ids: np.ndarray, mode: str = "P") -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.convert(mode).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("shape", [(7, 7), (5, 11), (40, 33), (1, 1)])
def test_a_mask_is_scaled_to_the_nearest_ids(mode: str, shape: tuple[int, int]) -> None:
    """As Pillow does it."""
    ids = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = Image.fromarray(ids).resize((24, 24), Image.Resampling.NEAREST)
    assert np.array_equal(decode_mask(png(ids, mode), 24), np.asarray(expected))


def test_a_mask_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In colour, cut, no PNG, or of too many pixels: a bad mask, whatever the reader says."""
    ids = np.zeros((64, 64), np.uint8)
    for data in (png(ids, "RGB"), png(ids)[:-40], b"nonsense", b""):
        with pytest.raises(ImageError) as caught:
            decode_mask(data, 24)
        assert caught.value.reason == "bad mask"
    monkeypatch.setattr(batches, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ImageError, match="too many pixels"):
        decode_mask(png(ids), 24)
