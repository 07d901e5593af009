"""Label images are read exactly, and what is wrong with one is said."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.data.images import ImageError
from sseg_core.errors import DataError
from sseg_core.evaluation.benchmarks import label_images
from sseg_core.evaluation.benchmarks.label_images import (
    label_table,
    read_label_image,
    read_rgb_labels,
    refuse_pictures,
)
from sseg_core.evaluation.examples import BACKGROUND, VOID

VALUES = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)
LABELS = np.array([[-1, 0, 1], [-2, 1, -1]], np.int16)
TABLE = label_table({0: BACKGROUND, 1: 0, 2: 1, 255: VOID})


def _png(path: Path, samples: np.ndarray, *, depth: int, kind: int) -> Path:
    """Write a PNG by hand, in any depth and colour type, a row of bytes after another."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = samples.shape[:2]
    channels = samples[0, 0].size
    bits = np.unpackbits(
        samples.reshape(height, width * channels, 1).astype(">u2").view(np.uint8).reshape(-1, 2),
        axis=1,
    )[:, 16 - depth :]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    palette = chunk(b"PLTE", bytes(range(3 * 2 ** min(depth, 4)))) if kind == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette
        + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def test_the_values_of_palette_and_grey_files_are_labels(tmp_path: Path) -> None:
    """Both kinds give the same labels; background and void are told from classes."""
    path = tmp_path / "a.png"
    palette = Image.fromarray(VALUES).convert("P")
    palette.putdata(VALUES.ravel().tolist())
    palette.putpalette([value * 7 % 256 for value in range(768)])
    for picture in (palette, Image.fromarray(VALUES)):
        picture.save(path)
        labels = read_label_image(path, TABLE)
        assert (labels.dtype, labels.tolist()) == (np.int16, LABELS.tolist())


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_of_few_colours_keeps_its_indices(tmp_path: Path, depth: int) -> None:
    """Optimised files hold 1, 2 or 4 bits a pixel; transparency does not matter."""
    values = np.arange(15).reshape(3, 5) % min(2**depth, 3)
    path = _png(tmp_path / "a.png", values, depth=depth, kind=3)
    assert np.array_equal(read_label_image(path, TABLE), values - 1)


def test_16_bit_files_have_a_table_of_their_own(tmp_path: Path) -> None:
    """65535 is void there and 255 a class; without a table the file is refused."""
    values = np.array([[0, 255, 300, 65535]], np.uint16)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    wide = label_table({65535: VOID} | {value: value for value in range(400)})
    assert read_label_image(path, TABLE, wide).tolist() == [[0, 255, 300, -2]]
    with pytest.raises(ImageError, match="a grey 16-bit PNG"):
        read_label_image(path, TABLE)


@pytest.mark.parametrize(
    ("depth", "kind", "name"),
    [
        (8, 2, "an RGB PNG"),
        (8, 6, "an RGBA PNG"),
        (8, 4, "a grey-alpha PNG"),
        (1, 0, "a grey 1-bit PNG"),  # readers make 0 and 255 of it
        (4, 0, "a grey 4-bit PNG"),  # and multiples of 17 of this
    ],
)
def test_files_whose_samples_are_no_labels_are_refused(
    tmp_path: Path, depth: int, kind: int, name: str
) -> None:
    """Colours, transparency and stretched grey are not guessed at."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    path = _png(tmp_path / "a.png", np.zeros((2, 3, channels), int), depth=depth, kind=kind)
    with pytest.raises(
        ImageError, match=rf"a\.png is {name}, .* must be palette or 8-bit grey"
    ) as e:
        read_label_image(path, TABLE)
    assert e.value.reason == "bad truth"
    with pytest.raises(DataError, match=name) as caught:
        refuse_pictures(path, "Save them otherwise.")
    assert not isinstance(caught.value, ImageError)
    assert caught.value.hint == "Save them otherwise."


def test_one_damaged_file_does_not_refuse_a_data_set(tmp_path: Path) -> None:
    """The first file is judged by its header only where it has one."""
    (tmp_path / "a.png").write_bytes(b"rubbish")
    refuse_pictures(tmp_path / "a.png", "")
    refuse_pictures(tmp_path / "missing.png", "")


def test_values_beyond_the_classes_are_named(tmp_path: Path) -> None:
    """The first five, and how many more."""
    path = tmp_path / "a.png"
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(path)
    with pytest.raises(
        ImageError, match=r"a\.png holds the value 7, which is no label of a class\."
    ):
        read_label_image(path, TABLE)
    Image.fromarray(np.arange(10, 20, dtype=np.uint8)[None]).save(path)
    with pytest.raises(ImageError, match=r"the values 10, 11, 12, 13, 14 and 5 more, which are no"):
        read_label_image(path, TABLE)


def test_rgb_labels_are_red_and_256_green(tmp_path: Path) -> None:
    """919 classes fit; blue does not matter; a grey file is refused."""
    values = np.array([[0, 5, 300, 919, 1000]])
    table = label_table({0: BACKGROUND, 1000: VOID} | {i + 1: i for i in range(919)})
    rgb = np.stack([values % 256, values // 256, values * 0], -1).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert read_rgb_labels(tmp_path / "a.png", table).tolist() == [[-1, 4, 299, 918, -2]]
    rgb[0, 0] = (152, 3, 0)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="the value 920"):
        read_rgb_labels(tmp_path / "a.png", table)
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is a grey PNG, not an RGB one of 8 bits"):
        read_rgb_labels(tmp_path / "a.png", table)


def test_damaged_files_are_image_errors_and_nothing_else(tmp_path: Path) -> None:
    """Cut or altered at any byte, a file is read or refused as bad truth, naming it."""
    path = tmp_path / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 3, (9, 9), np.uint8)).save(path)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        altered = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        for damaged in (data[:place], altered):
            path.write_bytes(damaged)
            with contextlib.suppress(ImageError):
                assert read_label_image(path, TABLE).dtype == np.int16
                continue
            refused += 1
    assert refused > len(data)  # at least every cut before the end of the pixels


def test_a_truncated_file_is_called_so(tmp_path: Path) -> None:
    """Half a file is not filled up with zeros."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (99, 99), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"a\.png is truncated"):
        read_label_image(path, TABLE)


def test_a_missing_file_is_bad_truth(tmp_path: Path) -> None:
    """Removed after the benchmark was opened, it costs one image."""
    with pytest.raises(ImageError, match=r"a\.png cannot be read: no such file"):
        read_label_image(tmp_path / "a.png", TABLE)


def test_the_pixel_limit_holds_for_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge file is refused by its header."""
    monkeypatch.setattr(label_images, "MAX_PIXELS", 5)
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="more than 5 pixels"):
        read_label_image(tmp_path / "a.png", TABLE)
