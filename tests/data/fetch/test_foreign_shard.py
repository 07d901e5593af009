"""Tars of strangers: any names, captions in any place, damage and malice."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sseg_core.config import DownloadConfig
from sseg_core.data.fetch import foreign_shard
from sseg_core.data.fetch.foreign_shard import FittingThreads, read_foreign_shard
from sseg_core.data.fetch.tally import Skipped
from sseg_core.data.shards import Sample

JPEG = b"\xff\xd8\xff no more"


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def read(data: bytes, folder: Path, limit: int = 10**7) -> list[Sample | Skipped]:
    path = folder / "it.tar"
    path.write_bytes(data)
    return list(read_foreign_shard(path, 7, "data/it.tar", max_image_bytes=limit))


def captions_of(folder: Path, **files: bytes) -> tuple[str, ...] | str:
    """Return the captions of a sample with these files beside its image, or why it has none."""
    members = [("a.jpg", JPEG), *((f"a.{name}", content) for name, content in files.items())]
    (item,) = read(tar_of(members), folder)
    return item.captions if isinstance(item, Sample) else item.reason


def test_captions_are_found_where_others_put_them(tmp_path: Path) -> None:
    """In a text file, else in JSON of several kinds."""
    for files, expected in (
        ({"txt": b" a\ncat "}, ("a cat",)),
        ({"TXT": b"upper"}, ("upper",)),
        ({"txt": b"text", "json": b'{"caption": "json"}'}, ("text",)),
        ({"txt": b" ", "json": b'{"caption": "json"}'}, ("json",)),
        ({"txt": b"\xff\xfe cut"}, ("\ufffd\ufffd cut",)),
        ({"json": b'{"captions": ["one", " ", "two"]}'}, ("one", "two")),
        ({"json": b'{"TEXT": "laion", "URL": "http://x"}'}, ("laion",)),
        ({"json": b'{"caption": null, "text": "other"}'}, ("other",)),
        ({"json": b'["one", "two"]'}, ("one", "two")),
        ({"json": b'"alone"'}, ("alone",)),
        ({"json": b'{"caption": {"caption": "deeper"}}'}, ("deeper",)),
        ({"json": b'{"url": "http://x"}'}, "no caption"),
        ({"json": b"5"}, "no caption"),
        ({"json": b"{"}, "unreadable captions"),
        ({"json": b"\xff"}, "unreadable captions"),
        ({"json": b"[" * 10**5}, "unreadable captions"),
        ({"txt": b"x" * 2**21}, "unreadable captions"),
        ({"cls": b"3"}, "no caption"),
    ):
        assert captions_of(tmp_path, **files) == expected, files


def test_names_of_strangers_become_keys(tmp_path: Path) -> None:
    """No two alike, none with a path in it, and long ones short."""
    names = ["00012/000120007", "/etc/passwd", "../../up", "./it", "b\u00fccher/\u00e4", "bucher/a",
             "x" * 300, "sp ace", "-"]  # fmt: skip
    members = [(f"{name}{end}", JPEG) for name in names for end in (".jpg", ".txt")]
    members[1:1] = [("._00012.jpg", b"of macOS"), ("00012/", b"")]
    samples = read(tar_of(members), tmp_path)
    assert len(samples) == len(names)
    keys = [sample.key for sample in samples if isinstance(sample, Sample)]
    assert len(set(keys)) == len(names)
    assert keys[:4] == ["000007-00012_000120007", "000007-etc_passwd", "000007-up", "000007-it"]
    assert keys[4:6] == ["000007-bucher_a", "000007-5_"]
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,90}", key)


def test_the_image_is_the_member_that_is_one(tmp_path: Path) -> None:
    """Masks and features beside it are not taken for it; larger files are not read."""
    text = ("a.txt", b"a")
    members = [("a.mask.png", b"mask"), ("a.PNG", b"image"), ("a.npy", b"0"), text]
    (sample,) = read(tar_of(members), tmp_path)
    assert isinstance(sample, Sample)
    assert sample.image == b"image"
    items = read(tar_of([("a.jpg", bytes(101)), text]), tmp_path, limit=100)
    assert sorted(item.reason for item in items if isinstance(item, Skipped)) == [
        "no image",
        "too large",
    ]
    assert {item.name for item in items if isinstance(item, Skipped)} == {"data/it.tar", "a"}


def test_a_long_note_of_a_member_is_not_read_into_memory(tmp_path: Path) -> None:
    """tarfile would, whatever it says its size is; the samples behind it are found."""
    note = tarfile.TarInfo("note")
    note.type = tarfile.XHDTYPE
    note.size = 2**32
    data = note.tobuf(tarfile.USTAR_FORMAT) + tar_of([("a.jpg", JPEG), ("a.txt", b"a")])
    items = read(data, tmp_path)
    assert [type(item) for item in items] == [Skipped, Sample]


@pytest.mark.parametrize("filling", ["zeros", "members", "one member"])
def test_what_expands_too_much_is_not_read_to_its_end(
    filling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros behind the end, more members than fit, or one that says it is huge."""
    monkeypatch.setattr(foreign_shard, "_FREE_EXPANSION_BYTES", 2**20)
    good = tar_of([("a.jpg", JPEG), ("a.txt", b"a")])
    if filling == "zeros":
        rest = bytes(2**24)
    elif filling == "members":
        rest = tar_of([(f"{n}.txt", b"") for n in range(10_000)])
    else:
        entry = tarfile.TarInfo("huge.jpg")
        entry.size = 2**33 - 1
        rest = entry.tobuf(tarfile.USTAR_FORMAT) + bytes(2**22)
    items = read(gzip.compress(good + rest), tmp_path)
    samples = [item for item in items if isinstance(item, Sample)]
    assert len(samples) == 1
    assert Skipped("too large", "data/it.tar") in items
    assert len(items) < 5_000


@given(data=st.data())
def test_no_damage_ends_in_an_error(data: st.DataObject) -> None:
    """Any bytes in the place of any others; undamaged samples before it are the same."""
    whole = tar_of(
        [(f"{n}.{end}", end.encode() * 300) for n in range(3) for end in ("jpg", "json", "txt")]
    )
    start = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.binary(max_size=600))
    kept = data.draw(st.booleans())
    damaged = whole[:start] + junk + (whole[start + len(junk) :] if kept else b"")
    with tempfile.TemporaryDirectory() as folder:
        expected = read(whole, Path(folder))
        items = read(damaged, Path(folder))
    sound = start // (9 * 1024)  # each sample has three members of 512 + 1024 bytes, or more
    assert items[:sound] == expected[:sound]


def _photo(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (90, 120, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def test_images_are_fitted_in_order_and_few_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By several threads; what cannot be fitted says why."""
    members = []
    for n in range(40):
        members.append((f"{n}.jpg", _photo(n) if n != 5 else JPEG))
        members.append((f"{n}.json", json.dumps({"caption": str(n)}).encode()))
    path = tmp_path / "it.tar"
    path.write_bytes(tar_of(members))
    monkeypatch.setattr(foreign_shard, "available_cores", lambda: 2)
    threads = set()
    fitted = foreign_shard.fit_image

    def watched(data: bytes, config: DownloadConfig) -> object:
        threads.add(threading.get_ident())
        return fitted(data, config)

    monkeypatch.setattr(foreign_shard, "fit_image", watched)
    read_now = 0
    reader = foreign_shard.read_foreign_shard

    def counted(*arguments: object, **options: object) -> object:
        nonlocal read_now
        for item in reader(*arguments, **options):  # type: ignore[arg-type]
            read_now += 1
            yield item

    monkeypatch.setattr(foreign_shard, "read_foreign_shard", counted)
    config = DownloadConfig(source="hf:x/y", max_side=60)
    with FittingThreads(config) as fitting:
        items = []
        for item, length in fitting.samples(path, 0, "it.tar"):
            items.append(item)
            assert length > 0
            assert read_now - len(items) <= 8
    assert [isinstance(item, Sample) for item in items] == [n != 5 for n in range(40)]
    assert [i.captions for i in items if isinstance(i, Sample)] == [
        (str(n),) for n in range(40) if n != 5
    ]
    assert items[5] == Skipped("corrupt", "000000-5")
    assert len(threads) == 2
