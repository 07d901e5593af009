"""Duplicates, exact and near."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.data.fetch.duplicates import count_duplicates, look_of
from sseg_core.data.fetch.outcomes import FETCHED, Outcome, write_outcomes


def _look(image: Image.Image, quality: int) -> int:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return int(look_of(np.asarray(Image.open(stream))), 16)


def _texture(seed: int) -> Image.Image:
    """Return a picture with structure at all sizes, as photos have."""
    generator = np.random.default_rng(seed)
    layers = [generator.normal(size=(4 * 2**i, 4 * 2**i)) / 2**i for i in range(5)]
    size = (320, 240)
    maps = [np.asarray(Image.fromarray(layer.astype(np.float32)).resize(size)) for layer in layers]
    total = sum(maps)
    scaled = (total - total.min()) / (total.max() - total.min()) * 255
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _table(path: Path, seen: list[tuple[str, str]]) -> Path:
    fetched = [Outcome("k", "u", FETCHED, digest, look) for digest, look in seen]
    write_outcomes(path, [*fetched, Outcome("k", "u", "http 404")])
    return path


def test_duplicates_are_counted_over_all_tables(tmp_path: Path) -> None:
    """Equal files are exact, other files of a like look near; the first of each is neither."""
    a, almost_a, b, c = (
        "00ff00ff00ff00ff",
        "00ff00ff00fe00fc",
        "ffffffff00000000",
        "0f0f0f0f0f0f0f0f",
    )
    seen = [("01", a), ("02", b), ("01", a), ("03", a), ("01", a), ("04", c), ("05", almost_a)]
    tables = [_table(tmp_path / "0", seen[:2]), _table(tmp_path / "1", seen[2:])]
    assert count_duplicates(tables) == {"exact": 2, "near": 2}
    assert count_duplicates([]) == {"exact": 0, "near": 0}
    assert count_duplicates([_table(tmp_path / "2", [("01", a)])]) == {"exact": 0, "near": 0}


def test_a_look_survives_compression_and_size() -> None:
    """Other sizes and compressions of a picture differ in a few bits, other pictures in many."""
    pictures = [_texture(seed) for seed in range(40)]
    looks = [_look(picture, 92) for picture in pictures]
    smaller = [picture.resize((190, 143)) for picture in pictures]
    again = [_look(picture, 75) for picture in smaller]
    distances = [(a ^ b).bit_count() for a, b in zip(looks, again, strict=True)]
    assert np.mean(distances) < 2
    assert min((a ^ b).bit_count() for i, a in enumerate(looks) for b in looks[:i]) > 8


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_nearly_all_near_duplicates_are_found(tmp_path: Path, bits: int) -> None:
    """Among many others, wherever the bits are that differ; without calling others near."""
    generator = np.random.default_rng(bits)
    others = generator.integers(0, 2**64, 200_000, np.uint64)
    flipped = [
        int(look) ^ sum(1 << int(bit) for bit in generator.choice(64, bits, replace=False))
        for look in others[:2000]
    ]
    looks = [*map(int, others), *flipped]
    seen = [(f"{i:016x}", f"{look:016x}") for i, look in enumerate(looks)]
    counts = count_duplicates([_table(tmp_path / "table", seen)])
    assert counts["exact"] == 0
    assert 1900 <= counts["near"] <= 2002
