"""Labels come back as they were written, and what is damaged says so."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sseg_core.data.images import ImageError
from sseg_core.data.label_shards import LabelEntry, LabelShardWriter, read_label_index
from sseg_core.errors import ArtifactError, DataError
from sseg_core.structures import BACKGROUND, MAX_PIXELS, VOID, LabelMap

Labelled = tuple[str, LabelMap, "npt.NDArray[np.float32] | None"]


def labelled(num_classes: int = 20) -> list[Labelled]:
    """Images of several sizes; the last without a confidence, keys of all kinds."""
    rng = np.random.default_rng(0)
    keys = ["a/b.jpg", "../../etc/passwd", "line\nbreak \x1b[31m", "\ud800 half", "x" * 300, "a/b"]
    items: list[Labelled] = []
    for number, key in enumerate(keys):
        shape = (1 + 7 * number, 40 - 6 * number)
        label_map = rng.integers(VOID, num_classes, shape).astype(np.int16)
        confidence = rng.random(shape, np.float32) if number < len(keys) - 1 else None
        items.append((key, label_map, confidence))
    return items


def write(tar: Path, items: list[Labelled]) -> list[LabelEntry]:
    with LabelShardWriter(tar) as writer:
        for item in items:
            writer.write(*item)
    return read_label_index([tar.with_suffix(".jsonl")])


@pytest.mark.parametrize("num_classes", [1, 253, 254, 255, 256, 1203, 32768])
def test_labels_come_back(tmp_path: Path, num_classes: int) -> None:
    """In 8 bits and in 16, with background and void; keys are any text."""
    items = labelled(num_classes)
    items[0][1][0, :3] = num_classes - 1, BACKGROUND, VOID
    entries = write(tmp_path / "labels-00000.tar", items)
    assert [entry.key for entry in entries] == [key for key, *_ in items]
    for entry, (_, label_map, confidence) in zip(entries, items, strict=True):
        assert (entry.height, entry.width) == label_map.shape
        assert entry.read(0).dtype == np.int16
        assert np.array_equal(entry.read(0), label_map)
        assert entry.pixels == {v: (label_map == v).sum() for v in np.unique(label_map).tolist()}
        read = entry.read_confidence()
        if confidence is None:
            assert (entry.mean_confidence, read) == (None, None)
            assert np.array_equal(entry.read(1), label_map)
        else:
            assert read is not None
            assert read.dtype == np.float32
            assert np.abs(read - confidence).max() <= 0.5 / 255 + 1e-7
            counted = confidence[label_map != VOID]
            assert entry.mean_confidence == pytest.approx(counted.mean(), abs=0.5 / 255)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_unsure_pixels_become_void(tmp_path: Path, least: float) -> None:
    """Those below the threshold and no others, in steps of 1/255."""
    levels = np.tile(np.arange(256), (2, 1))
    label_map = np.stack([np.full(256, 3), np.full(256, BACKGROUND)]).astype(np.int16)
    confidence = (levels / 255).astype(np.float32)
    [entry] = write(tmp_path / "a.tar", [("k", label_map, confidence)])
    expected = np.where(levels / 255 < least, VOID, label_map)
    assert np.array_equal(entry.read(least), expected)


def test_an_image_of_void_has_no_mean_confidence(tmp_path: Path) -> None:
    """There is no pixel to take the mean of."""
    void = np.full((3, 4), VOID, np.int16)
    [entry] = write(tmp_path / "a.tar", [("k", void, np.ones((3, 4), np.float32))])
    assert (entry.mean_confidence, entry.pixels) == (None, {VOID: 12})


def test_any_reader_of_tar_and_png_understands_a_shard(tmp_path: Path) -> None:
    """Members are named by number; a byte is the class, 254 void and 255 background."""
    label_map = np.array([[0, 7, 253], [VOID, BACKGROUND, 1]], np.int16)
    confidence = np.array([[0, 0.2, 0.4], [0.6, 0.8, 1]], np.float32)
    write(tmp_path / "a.tar", [("../x", label_map, confidence), ("y", label_map, None)])
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = ["00000.label.png", "00000.confidence.png", "00001.label.png"]
        assert tar.getnames() == names
        assert {entry.mtime for entry in tar.getmembers()} == {0}
        pixels = [np.array(Image.open(io.BytesIO(tar.extractfile(n).read()))) for n in names]
    assert pixels[0].tolist() == [[0, 7, 253], [254, 255, 1]]
    assert pixels[1].tolist() == [[0, 51, 102], [153, 204, 255]]
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["confidence"] is None


def test_equal_labels_give_equal_bytes(tmp_path: Path) -> None:
    """No time, name or order of a dictionary enters the files."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.tar", labelled())
    for name in ("a.tar", "a.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_shard_that_was_broken_off_has_no_index(tmp_path: Path) -> None:
    """So that nobody takes it for whole."""
    wrong = (np.zeros((2, 3), np.int16), np.ones((3, 2), np.float32))
    with pytest.raises(AssertionError):
        write(tmp_path / "a.tar", [*labelled(), ("k", *wrong)])
    assert not (tmp_path / "a.jsonl").exists()
    with pytest.raises(ArtifactError, match=r"a\.jsonl cannot be read: no such file"):
        read_label_index([tmp_path / "a.jsonl"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """Whether it shows at once or at the end."""
    (tmp_path / "a.tar").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"Cannot write .*a\.tar: no space left"):
        write(tmp_path / "a.tar", labelled())
    with pytest.raises(DataError, match=r"Cannot write .*: no such file"):
        LabelShardWriter(tmp_path / "none" / "a.tar")


LINE = {
    "key": "k",
    "height": 2,
    "width": 3,
    "label": [512, 80],
    "confidence": None,
    "pixels": {"0": 5, "-1": 1},
    "mean_confidence": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"key": 3},
        {"height": -2, "width": -3},
        {"height": "2"},
        {"height": 2.0},
        {"height": MAX_PIXELS, "width": 2, "pixels": {"0": 2 * MAX_PIXELS}},
        {"label": [512]},
        {"label": [-1, 80]},
        {"label": [0, 0]},
        {"label": [0, 2**40]},
        {"label": None},
        {"confidence": "no"},
        {"pixels": {"0": 5}},
        {"pixels": {"0": 7, "1": -1}},
        {"pixels": {"cat": 6}},
        {"pixels": {"-3": 6}},
        {"pixels": {"32768": 6}},
        {"pixels": [6]},
        {"mean_confidence": 1.5},
        {"mean_confidence": float("nan")},
    ],
)
def test_an_impossible_line_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    """Whatever the field; the same line without the change is read."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(ArtifactError, match=r"Line 2 of .*a\.jsonl is damaged"):
        read_label_index([path])
    path.write_text(json.dumps(LINE))
    assert len(read_label_index([path])) == 1


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b"{}", b""])
def test_what_is_no_line_is_named(tmp_path: Path, line: bytes) -> None:
    """Text that was cut off, another kind of JSON, no text at all."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(LINE).encode())
    with pytest.raises(ArtifactError, match="Line 1 of"):
        read_label_index([path])


def test_damaged_labels_are_bad_labels(tmp_path: Path) -> None:
    """Other bytes, a cut file, a file of another size; one that is gone is unreadable."""
    tar = tmp_path / "a.tar"
    label_map = np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.int16)
    sure = np.ones((20, 30), np.float32)
    first, second = write(tar, [("evil \x1b[31m", label_map, sure), ("b", label_map[:9], None)])
    whole = tar.read_bytes()
    offset, size = first.label
    for damaged in (
        whole[:offset] + bytes(size) + whole[offset + size :],
        whole[: offset + size // 2],
        b"",
    ):
        tar.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"evil \?\[31m in .*a\.tar is damaged") as caught:
            first.read(0)
        assert caught.value.reason == "bad label"
    # The confidence is not opened where it does not matter.
    assert first.confidence is not None
    tar.write_bytes(whole[: first.confidence[0]])
    assert np.array_equal(first.read(0), label_map)
    for read in (lambda: first.read(0.5), first.read_confidence):
        with pytest.raises(ImageError, match="is damaged"):
            read()
    start, length = second.label
    tar.write_bytes(whole[:offset] + whole[start : start + length].ljust(len(whole)))
    with pytest.raises(ImageError, match="is not the one that was written"):
        first.read(0)
    tar.unlink()
    with pytest.raises(ImageError, match="cannot be read: no such file") as caught:
        first.read(0)
    assert caught.value.reason == "unreadable"


@pytest.mark.slow
def test_a_large_index_is_read_in_seconds(tmp_path: Path) -> None:
    """As many images as COCO has for training."""
    line = LINE | {"pixels": {"0": 1, "1": 1, "5": 1, "17": 1, "-1": 2}, "mean_confidence": 0.9}
    (tmp_path / "a.jsonl").write_text((json.dumps(line) + "\n") * 118_000)
    begin = time.process_time()
    assert len(read_label_index([tmp_path / "a.jsonl"])) == 118_000
    assert time.process_time() - begin < 8  # about one second on an idle machine
