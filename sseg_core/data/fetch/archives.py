"""Archives from outside, unpacked so that nothing lands where it should not, or fills the disk."""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Self

from sseg_core.errors import DataError, printable
from sseg_core.tracking import Progress

_CHUNK_BYTES = 2**20
_LONGEST_NAME = 240  # bytes; file systems take 255
_UNPACKING = ".unpacking"
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError,
    OSError, ValueError, RuntimeError, IndexError, MemoryError,
)  # fmt: skip
"""What tarfile and zipfile raise, the latter where a damaged field means something else."""
_MAX_NOTE_BYTES = 2**20
_NOTES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
"""Kinds of members that tell a long name or other facts of the next one."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold.

    Attributes:
        members: files.
        bytes: of all of them together.
        expansion: how many times the size of the archive that is at most, above `free_bytes`.
        free_bytes: an archive may grow to this without regard to `expansion`.
    """

    members: int = 1_000_000
    bytes: int = 10**12
    expansion: float = 50.0
    free_bytes: int = 2**30

    def most(self, archive_bytes: int) -> int:
        """Return how many bytes an archive of some size may unpack to."""
        return min(self.bytes, max(self.free_bytes, round(self.expansion * archive_bytes)))


def unpack(
    archive: Path,
    into: Path,
    progress: Progress,
    *,
    members: Sequence[str] = (),
    limits: Limits = Limits(),
) -> None:
    """Unpack the files of a tar, packed or not, or a zip.

    They are written into a folder beside their place, and moved when all are there, so that a kill
    leaves no half of them; a file that is there already is replaced. Links, devices and all that
    would lie outside `into` are refused, whatever they are called, and bytes are counted as they
    come, whatever the archive says.

    Args:
        archive: a file.
        into: a folder, made if need be.
        progress: is told of each file.
        members: patterns of the names to unpack, such as `annotations/*.json`; none means all.
        limits: what it may hold.

    Raises:
        DataError: it is damaged, encrypted, dangerous or too large, or the disk is full.
    """
    work = unpacking(archive.name, into)
    is_mended = work.exists()  # a kill may have left half of the files in their place
    progress.start(f"unpack {printable(archive.name, 30)}", None, "files")
    try:
        try:
            work.mkdir(parents=True, exist_ok=True)
            _clear(work)
            _write_files(archive, work, members, limits, progress)
        except BaseException:
            _clear(work)
            if not is_mended and work.exists():
                work.rmdir()
            raise
        _move(work, into)
        shutil.rmtree(work)
    except OSError as error:  # none of reading: that is a `DataError` already
        raise DataError(
            f"{printable(archive.name)} cannot be unpacked into {printable(into, None)}: "
            f"{(error.strerror or str(error)).lower()}.",
            "Make room or choose another --root, and run the same command again.",
        ) from error


def _write_files(
    archive: Path, work: Path, members: Sequence[str], limits: Limits, progress: Progress
) -> None:
    name = printable(archive.name)
    left = limits.most(archive.stat().st_size)
    for number, (path, parts) in enumerate(_files(archive), start=1):
        if number > limits.members:
            raise _refused(name, f"holds more than {limits.members:,} files")
        target = work / _checked(path, name)
        if members and not any(fnmatchcase(path, pattern) for pattern in members):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as written:
            for part in parts:
                left -= len(part)
                if left < 0:
                    raise _refused(name, "grows to more than a sound archive of its size does")
                written.write(part)
        progress.advance()


def unpacking(name: str, into: Path) -> Path:
    """Return the folder that is there while an archive is being unpacked, or after a kill."""
    return into / f"{_UNPACKING}-{name}"


def _files(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the names and contents of the files in an archive.

    Raises:
        DataError: it is damaged or encrypted, or holds other than files and folders.
    """
    with _reading(archive):
        yield from _zip_files(archive) if zipfile.is_zipfile(archive) else _tar_files(archive)


def _zip_files(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            if entry.is_dir():
                continue
            if entry.flag_bits & 1:
                raise _refused(printable(archive.name), "is encrypted")
            if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG}:
                raise _refused(printable(archive.name), "holds a link or a device")
            with opened.open(entry) as stream:
                yield entry.filename, _parts(stream, archive)


def _tar_files(archive: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with tarfile.open(archive, "r:*", tarinfo=_Header) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would remember all of them
            if member.isdir():
                continue
            # What the data filter would let pass with a changed name is refused here by `_checked`.
            if not member.isreg():
                raise _refused(printable(archive.name), "holds a link or a device")
            content = tar.extractfile(member)
            assert content is not None  # it is a regular file
            yield member.name, _parts(content, archive)
        assert tar.fileobj is not None  # it is open
        while tar.fileobj.read(_CHUNK_BYTES):
            pass  # the digest of a packed tar is checked at its end


def _parts(stream: IO[bytes], archive: Path) -> Iterator[bytes]:
    with _reading(archive):
        while part := stream.read(_CHUNK_BYTES):
            yield part


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn what reading an archive raises into one sentence."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{printable(archive.name)} is damaged, or no tar or zip.",
            f"Remove {printable(archive, None)}, and run the same command again.",
        ) from error


class _Header(tarfile.TarInfo):
    """A header that is taken neither for the end of the tar nor for a gigantic name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header in a block.

        Raises:
            ReadError: it is damaged, or the tar was cut short before it.
        """
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # zeros: the end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        if header.type in _NOTES and header.size > _MAX_NOTE_BYTES:
            raise tarfile.ReadError("a name of megabytes")
        return header


def _checked(path: str, archive: str) -> PurePosixPath:
    """Return the relative path of a member, which a stranger has named.

    Raises:
        DataError: it would lie elsewhere, or no file can be called so.
    """
    place = PurePosixPath(path)
    odd = (
        not place.parts
        or place.is_absolute()
        or ".." in place.parts
        or PureWindowsPath(path).drive
        or "\\" in path
        or "\0" in path
        or any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in place.parts)
        or place.parts[0].startswith(_UNPACKING)
    )
    if odd:
        raise _refused(archive, f"holds a file called {printable(path)!r}")
    return place


def _clear(work: Path) -> None:
    """Empty a folder; it stays, for it tells that what was unpacked is not whole."""
    for path in work.iterdir() if work.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move(work: Path, into: Path) -> None:
    """Move the files below `work` to the same places below `into`."""
    for path in sorted(work.rglob("*")):
        target = into / path.relative_to(work)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            path.replace(target)


def _refused(archive: str, why: str) -> DataError:
    return DataError(
        f"{archive} is not unpacked: it {why}.",
        "It is not what its publisher made; remove it, and fetch it from another place.",
    )
