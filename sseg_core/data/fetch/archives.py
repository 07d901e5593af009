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
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Self

from sseg_core.errors import DataError, printable
from sseg_core.tracking import Progress

_CHUNK_BYTES = 2**20
_LONGEST_NAME = 240  # bytes; file systems take 255
_UNPACKING = ".unpacking"
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
    name = printable(archive.name)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        progress.start(f"unpack {printable(archive.name, 30)}", None, "files")
        left = limits.most(archive.stat().st_size)
        count = 0
        for path, stream in _files(archive):
            count += 1
            if count > limits.members:
                raise _refused(name, f"holds more than {limits.members:,} files")
            target = work / _checked(path, name)
            if members and not any(fnmatchcase(path, pattern) for pattern in members):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as written:
                while part := stream.read(min(_CHUNK_BYTES, left + 1)):
                    left -= len(part)
                    if left < 0:
                        raise _refused(name, "grows to more than a sound archive of its size does")
                    written.write(part)
            progress.advance()
        _move(work, into)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise _damaged(archive) from error
    # The rest of what tarfile and zipfile raise where a damaged field means something else.
    except (EOFError, ValueError, RuntimeError, IndexError, struct.error, MemoryError) as error:
        raise _damaged(archive) from error
    except OSError as error:
        if error.errno is None:
            raise _damaged(archive) from error
        raise DataError(
            f"{name} cannot be unpacked into {printable(into, None)}: "
            f"{(error.strerror or str(error)).lower()}.",
            "Make room or choose another --root, and run the same command again.",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpacking(name: str, into: Path) -> Path:
    """Return the folder that is there while an archive is being unpacked, or after a kill."""
    return into / f"{_UNPACKING}-{name}"


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the names and contents of the files in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if entry.is_dir():
                    continue
                if entry.flag_bits & 1:
                    raise _refused(printable(archive.name), "is encrypted")
                if kind not in {0, stat.S_IFREG}:
                    raise _refused(printable(archive.name), "holds a link or a device")
                with opened.open(entry) as stream:
                    yield entry.filename, stream
        return
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
            yield member.name, content
        assert tar.fileobj is not None  # it is open
        while tar.fileobj.read(_CHUNK_BYTES):
            pass  # what unpacks it checks its digest at the end


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


def _damaged(archive: Path) -> DataError:
    return DataError(
        f"{printable(archive.name)} is damaged, or no tar or zip.",
        "Remove the file, and run the same command again: it fetches it anew.",
    )
