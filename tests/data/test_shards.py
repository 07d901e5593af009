"""Shards are written alike every time, and read back whatever strangers put into them."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import webdataset as wds

from sseg_core.data.shards import (
    Sample,
    pack_sample,
    read_masks,
    read_shard,
    read_shard_with_masks,
    write_tar,
)
from sseg_core.errors import DataError


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{i}", bytes([i]) * 700, (f"caption {i}", "caf\u00e9")) for i in range(count)]


def write_samples(path: Path, items: list[Sample]) -> Path:
    write_tar(path, [member for item in items for member in pack_sample(item, "jpg")])
    return path


def test_round_trip(tmp_path: Path) -> None:
    """Samples come back in order as they were packed."""
    skipped: Counter[str] = Counter()
    path = write_samples(tmp_path / "000000.tar", samples(5))
    assert list(read_shard(path, skipped)) == samples(5)
    assert not skipped


def test_a_tar_is_a_function_of_its_members(tmp_path: Path) -> None:
    """Two writes give the same bytes, without times, users or machines in them."""
    first = write_samples(tmp_path / "a.tar", samples(3)).read_bytes()
    second = write_samples(tmp_path / "b.tar", samples(3)).read_bytes()
    assert first == second
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    """The plain webdataset reader sees the same keys and images."""
    path = write_samples(tmp_path / "000000.tar", samples(3))
    groups = list(wds.WebDataset(str(path), shardshuffle=False))
    assert [(g["__key__"], g["jpg"]) for g in groups] == [(s.key, s.image) for s in samples(3)]
    assert json.loads(groups[0]["json"]) == {"captions": list(samples(1)[0].captions)}


def test_a_truncated_shard_gives_what_is_whole(tmp_path: Path) -> None:
    """The samples before the cut are yielded, and the cut is counted."""
    path = write_samples(tmp_path / "000000.tar", samples(5))
    # A sample takes two members of a 512-byte header each, 700 bytes in two blocks, JSON in one.
    path.write_bytes(path.read_bytes()[: 2 * 2560 + 512 + 300])
    skipped: Counter[str] = Counter()
    assert list(read_shard(path, skipped)) == samples(2)
    assert skipped == {"truncated shard": 1}


@pytest.mark.parametrize("content", [b"", b"nonsense" * 200, b"\x1f\x8b nonsense" * 200])
def test_a_file_that_is_no_tar_is_counted(tmp_path: Path, content: bytes) -> None:
    """Junk under a shard's name yields nothing and is counted."""
    path = tmp_path / "000000.tar"
    path.write_bytes(content)
    skipped: Counter[str] = Counter()
    assert list(read_shard(path, skipped)) == []
    assert skipped["truncated shard"] == 1


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.97])
def test_a_shard_cut_anywhere_is_counted(tmp_path: Path, share: float, compress: bool) -> None:
    """Even where the cut falls between two members, or into the packed bytes."""
    path = tmp_path / "000000.tar"
    members = [member for item in samples(200) for member in pack_sample(item, "jpg")]
    write_tar(path, members, compress=compress)
    whole = path.read_bytes()
    cut = int(share * len(whole))
    path.write_bytes(whole[: cut if compress else cut // 512 * 512])
    skipped: Counter[str] = Counter()
    found = list(read_shard(path, skipped))
    assert found == samples(200)[: len(found)]
    assert compress or len(found) >= 200 * share - 6
    assert skipped["truncated shard"] == 1


def test_a_damaged_member_costs_only_itself(tmp_path: Path) -> None:
    """Garbage over a header and its content: what follows is read, the damage is counted."""
    path = write_samples(tmp_path / "000000.tar", samples(6))
    content = bytearray(path.read_bytes())
    # A sample takes two members of a 512-byte header each, 700 bytes in two blocks, JSON in one.
    content[2 * 2560 : 2 * 2560 + 1536] = b"\xa5" * 1536
    content[4 * 2560 : 4 * 2560 + 100] = b"\xa5" * 100
    path.write_bytes(content)
    skipped: Counter[str] = Counter()
    assert list(read_shard(path, skipped)) == [samples(6)[i] for i in (0, 1, 3, 5)]
    assert skipped == {"damaged member": 2, "no image": 2}


def test_a_packed_shard_is_read_like_any_other(tmp_path: Path) -> None:
    """By our reader, by webdataset and by tarfile; equal members give equal bytes."""
    members = [(f"s{i}.mask.png", b"\x89PNG%d" % i) for i in range(300)]
    path = tmp_path / "000000.tar"
    write_tar(path, members, compress=True)
    write_tar(tmp_path / "again.tar", members, compress=True)
    assert path.read_bytes() == (tmp_path / "again.tar").read_bytes()
    assert path.stat().st_size < 300 * 100
    assert list(read_masks(path)) == [(f"s{i}", b"\x89PNG%d" % i) for i in range(300)]
    groups = list(wds.WebDataset(str(path), shardshuffle=False))
    assert [(g["__key__"], g["mask.png"]) for g in groups] == list(read_masks(path))
    with tarfile.open(path) as tar:
        assert tar.getnames() == [name for name, _ in members]


def test_masks_of_other_images_are_an_error(tmp_path: Path) -> None:
    """A mask that its pairs shard has no sample for: both shards and the key are named."""
    pairs = write_samples(tmp_path / "000003.tar", samples(4))
    masks = tmp_path / "masks.tar"
    write_tar(masks, [(f"{key}.mask.png", b"m") for key in ("s0", "other", "s3")])
    found = []
    with pytest.raises(DataError, match=r"masks\.tar are not those of .*000003\.tar.*'other'"):
        found.extend(sample.key for sample, _ in read_shard_with_masks(pairs, masks))
    damaged = bytearray(pairs.read_bytes())
    damaged[2560 : 2560 + 512] = b"\xa5" * 512
    pairs.write_bytes(damaged)
    skipped: Counter[str] = Counter()
    joined = read_shard_with_masks(pairs, masks, skipped)
    assert [sample.key for sample, _ in joined] == ["s0", "s3"]
    assert skipped == {"damaged member": 1, "no image": 1, "no mask": 1}


def test_odd_members_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    """Unsafe names, duplicates, lone members and broken JSON cost only themselves."""
    good = pack_sample(samples(1)[0], "JPG")
    captions = b'{"captions": ["x"]}'
    members = [
        ("../../evil.jpg", b"x"),
        ("/etc/evil.jpg", b"x"),
        ("sub/evil.jpg", b"x"),
        (".hidden", b"x"),
        ("noextension", b"x"),
        *good,
        (good[1]),
        ("lonely.json", captions),
        ("mute.jpg", b"x"),
        ("blank.jpg", b"x"),
        ("blank.json", b'{"captions": ["  "]}'),
        *((f"bad{i}.{ext}", data) for i, bad in enumerate(BAD_JSON) for ext, data in bad),
        ("last.png", b"png"),
        ("last.json", captions),
    ]
    write_tar(tmp_path / "000000.tar", members)
    skipped: Counter[str] = Counter()
    found = list(read_shard(tmp_path / "000000.tar", skipped))
    assert found == [samples(1)[0], Sample("last", b"png", ("x",))]
    assert skipped == {
        "unsafe name": 5,
        "duplicate name": 1,
        "no image": 1,
        "no caption": 2,
        "unreadable captions": len(BAD_JSON),
    }


BAD_JSON = [
    [("jpg", b"x"), ("json", text)]
    for text in (b"{", b"[]", b"3", b"{}", b'{"captions": "x"}', b'{"captions": [1]}', b"\xff",
                 b"[" * 100_000)
]  # fmt: skip


def test_a_member_that_would_fill_the_memory_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kB of gzip may stand for gigabytes: too large a member is counted, the rest read."""
    monkeypatch.setattr("sseg_core.data.shards._MAX_MEMBER_BYTES", 5000)
    samples = [Sample(f"s{i}", b"x" * size, ("a cat",)) for i, size in enumerate((10, 6000, 20))]
    path = tmp_path / "bomb.tar"
    write_tar(path, [m for sample in samples for m in pack_sample(sample, "jpg")], compress=True)
    counts: Counter[str] = Counter()
    assert [sample.key for sample in read_shard(path, counts)] == ["s0", "s2"]
    assert counts == {"too large": 1, "no image": 1}


def test_links_in_a_tar_are_ignored(tmp_path: Path) -> None:
    """A symbolic link in a shard is never followed."""
    path = tmp_path / "000000.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("evil.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in pack_sample(samples(1)[0], "jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert list(read_shard(path)) == samples(1)


def test_masks_are_joined_by_key(tmp_path: Path) -> None:
    """Each sample meets the mask of its own key; one without a mask is counted."""
    pairs = write_samples(tmp_path / "000000.tar", samples(5))
    masks = tmp_path / "masks.tar"
    write_tar(masks, [(f"s{i}.mask.png", b"mask%d" % i) for i in (0, 2, 4)])
    assert list(read_masks(masks)) == [(f"s{i}", b"mask%d" % i) for i in (0, 2, 4)]
    skipped: Counter[str] = Counter()
    joined = list(read_shard_with_masks(pairs, masks, skipped))
    assert joined == [(samples(5)[i], b"mask%d" % i) for i in (0, 2, 4)]
    assert skipped == {"no mask": 2}


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    """A shard that is not there stops with its name."""
    with pytest.raises(DataError, match=r"000007\.tar: no such file"):
        list(read_shard(tmp_path / "000007.tar"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_sentence() -> None:
    """Writing to a full disk raises one sentence with the way on."""
    with pytest.raises(DataError, match="no space left on device") as caught:
        write_tar(Path("/dev/full"), [("a.jpg", b"x" * 100_000)])
    assert "Free some space" in caught.value.hint
