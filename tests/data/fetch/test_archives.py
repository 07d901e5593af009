"""Archives: everything in its place, or nothing at all."""

from __future__ import annotations

import gzip
import io
import lzma
import resource
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sseg_core.data.fetch.archives import Limits, unpack, unpacking
from sseg_core.errors import DataError
from sseg_core.tracking import SILENT

FILES = {"top/a.txt": b"a" * 3000, "top/deep/b.json": b"{}", "c": b""}


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("top")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "x.tar": _tar,
    "x.tar.gz": lambda path, files: _tar(path, files, "w:gz"),
    "x.zip": _zip,
}


def _found(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_all_files_are_unpacked(tmp_path: Path, name: str) -> None:
    """Beside what is there; a file of the same name is replaced."""
    into = tmp_path / "into"
    (into / "top").mkdir(parents=True)
    (into / "top/a.txt").write_bytes(b"old")
    (into / "mine").write_bytes(b"mine")
    unpack(MAKERS[name](tmp_path / name, FILES), into, SILENT)
    assert _found(into) == {**FILES, "mine": b"mine"}
    assert not unpacking(name, into).exists()


@pytest.mark.parametrize("name", MAKERS)
def test_some_members_can_be_chosen(tmp_path: Path, name: str) -> None:
    """By patterns of their names."""
    into = tmp_path / "into"
    unpack(MAKERS[name](tmp_path / name, FILES), into, SILENT, members=("top/*/*.json", "c"))
    assert _found(into) == {"top/deep/b.json": b"{}", "c": b""}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "member",
    [
        "/etc/passwd",
        "../out",
        "a/../../out",
        "C:/x",
        "a\\..\\b",
        "x" * 300,
        ".unpacking-x/a",
        "C:x",
    ],
)
def test_dangerous_names_are_refused(tmp_path: Path, name: str, member: str) -> None:
    """Nothing is written, neither there nor elsewhere; also if it is not the first member."""
    into = tmp_path / "into"
    archive = MAKERS[name](tmp_path / name, {"good": b"1", member: b"2"})
    with pytest.raises(DataError, match=r"is not unpacked: it holds a file called"):
        unpack(archive, into, SILENT)
    assert _found(tmp_path) == {name: archive.read_bytes()}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """Wherever they lead."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        entry = tarfile.TarInfo("link")
        entry.type = kind
        entry.linkname = "c"
        tar.addfile(entry)
    with pytest.raises(DataError, match="holds a link or a device"):
        unpack(tmp_path / "x.tar", tmp_path / "into", SILENT)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """There, the mode of the file tells."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="holds a link or a device"):
        unpack(tmp_path / "x.zip", tmp_path / "into", SILENT)


@pytest.mark.parametrize("name", MAKERS)
def test_bombs_are_refused(tmp_path: Path, name: str) -> None:
    """By what comes out, not by what the archive says; sound ones pass at the same limits."""
    limits = Limits(free_bytes=10_000, expansion=20)
    unpack(MAKERS[name](tmp_path / name, FILES), tmp_path / "good", SILENT, limits=limits)
    bomb = {f"zeros{number}": bytes(1_000_000) for number in range(20)}
    small = Limits(free_bytes=10_000, expansion=0.5 if name == "x.tar" else 20)
    with pytest.raises(DataError, match="grows to more than a sound archive"):
        unpack(MAKERS[name](tmp_path / name, bomb), tmp_path / "into", SILENT, limits=small)
    assert _found(tmp_path / "into") == {}
    many = MAKERS[name](tmp_path / name, {str(number): b"" for number in range(30)})
    with pytest.raises(DataError, match="holds more than 29 files"):
        unpack(many, tmp_path / "into", SILENT, limits=Limits(members=29))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.97])
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, name: str, cut: float) -> None:
    """Cut short anywhere: nothing of it is left in the folder."""
    archive = MAKERS[name](tmp_path / name, {"a": b"1" * 50_000, "b": bytes(range(256)) * 400})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * cut)])
    if name == "x.tar" and cut > 0.9:
        return  # what is missing is padding
    with pytest.raises(DataError, match="is damaged, or no tar or zip"):
        unpack(archive, tmp_path / "into", SILENT)
    assert _found(tmp_path / "into") == {}


def test_no_archive_and_a_password(tmp_path: Path) -> None:
    """A page that was saved as a zip; a zip that asks for a password."""
    (tmp_path / "x.zip").write_text("<html>")
    with pytest.raises(DataError, match="is damaged, or no tar or zip"):
        unpack(tmp_path / "x.zip", tmp_path / "into", SILENT)
    data = bytearray(_zip(tmp_path / "y.zip", {"a": b"secret"}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of encryption
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + offset] |= 1
    (tmp_path / "y.zip").write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"):
        unpack(tmp_path / "y.zip", tmp_path / "into", SILENT)


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("kept", [1024, 1024 + 200, None])
def test_what_a_tar_lacks_is_missed(tmp_path: Path, name: str, kept: int | None) -> None:
    """Cut between two files or in a header, or a damaged header: no end of a tar."""
    plain = _tar(tmp_path / "plain.tar", {"a": b"1", "b": b"2"}).read_bytes()[512:]  # no folder
    plain = plain[:1024] + b"?" + plain[1025:] if kept is None else plain[:kept]
    archive = tmp_path / name
    archive.write_bytes(gzip.compress(plain) if name.endswith("gz") else plain)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        unpack(archive, tmp_path / "into", SILENT)
    assert _found(tmp_path / "into") == {}


@pytest.mark.parametrize(("pack", "places"), [(gzip.compress, (-8,)), (lzma.compress, (-40, 100))])
def test_a_wrong_byte_in_a_packed_tar_is_seen(
    tmp_path: Path, pack: Callable[[bytes], bytes], places: tuple[int, ...]
) -> None:
    """Also one in the digest, which follows the tar."""
    packed = pack(_tar(tmp_path / "plain.tar", {"a": bytes(range(256)) * 40}).read_bytes())
    for place in places:
        wrong = bytearray(packed)
        wrong[place] ^= 1
        (tmp_path / "x.tar.gz").write_bytes(wrong)
        with pytest.raises(DataError, match="is damaged"):
            unpack(tmp_path / "x.tar.gz", tmp_path / "into", SILENT)
    (tmp_path / "x.tar.gz").write_bytes(packed)
    unpack(tmp_path / "x.tar.gz", tmp_path / "into", SILENT)
    assert _found(tmp_path / "into") == {"a": bytes(range(256)) * 40}


def test_a_gigantic_name_is_not_read(tmp_path: Path) -> None:
    """It would be taken into memory as a whole: a packed tar has room for gigabytes."""
    name = "x" * 3_000_000
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("good"))
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="is damaged"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "into", SILENT)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A zip that says UTF-8 of what is none."""
    data = _zip(tmp_path / "x.zip", {"\u00e9": b"1"}).read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace("\u00e9".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match="is damaged"):
        unpack(tmp_path / "x.zip", tmp_path / "into", SILENT)


def test_files_that_could_not_be_moved_are_known_to_be_missing(tmp_path: Path) -> None:
    """The mark of it stays, whatever fails then, until all of them are in their place."""
    into, archive = tmp_path / "into", _zip(tmp_path / "x.zip", FILES)
    (into / "top/a.txt/in the way").mkdir(parents=True)
    with pytest.raises(DataError, match=r"x.zip cannot be unpacked into .*: is a directory"):
        unpack(archive, into, SILENT)
    assert (into / "c").exists()
    assert unpacking("x.zip", into).exists()
    with pytest.raises(DataError, match="holds more than 1 files"):
        unpack(archive, into, SILENT, limits=Limits(members=1))
    assert unpacking("x.zip", into).exists()
    (into / "top/a.txt/in the way").rmdir()
    (into / "top/a.txt").rmdir()
    unpack(archive, into, SILENT)
    assert _found(into) == FILES
    assert not unpacking("x.zip", into).exists()


@pytest.mark.parametrize("name", MAKERS)
def test_a_full_disk_is_no_damage(tmp_path: Path, name: str) -> None:
    """The archive is kept, and nothing is left of what was unpacked."""
    archive = MAKERS[name](tmp_path / name, {"a": b"1" * 3_000_000})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be unpacked into .*: file too large") as e:
            unpack(archive, tmp_path / "into", SILENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Make room" in e.value.hint
    assert list((tmp_path / "into").iterdir()) == []
    unpack(archive, tmp_path / "into", SILENT)
    assert _found(tmp_path / "into") == {"a": b"1" * 3_000_000}
