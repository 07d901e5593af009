"""Tar files read as a stream, with nothing lost in silence and nothing believed.

webdataset's own reader takes a damaged header for the end of the tar, and loses what follows
without a word; tarfile reads what it takes for a long name into memory, whatever its size.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Self

_MAX_NOTE_BYTES = 2**20
_NOTES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
"""Kinds of members that tell a long name or other facts of the next one."""


def tar_files(
    stream: IO[bytes],
    skipped: Counter[str],
    *,
    max_member_bytes: int,
    max_bytes: int | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of the regular files of a tar, compressed or not.

    Names are as they stand there: no paths to trust. Behind a damaged member, reading goes on
    with the next whole one.

    Args:
        stream: read from here on.
        skipped: counts what is passed over, as "damaged member", "too large", "truncated shard".
        max_member_bytes: larger files are passed over.
        max_bytes: of a compressed tar; what it holds beyond is not read. None: any number.
    """
    reading = _Reading(skipped, max_bytes)
    try:
        # What is no header is passed over in search of the next one.
        with tarfile.open(
            fileobj=stream, mode="r|*", ignore_zeros=True, tarinfo=_header_of(reading)
        ) as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember all of them
                reading.spend(entry.size)
                if not entry.isreg():
                    continue
                if entry.size > max_member_bytes:
                    skipped["too large"] += 1
                    continue
                content = tar.extractfile(entry)
                assert content is not None  # it is a regular file
                yield entry.name, content.read()
    except _ExpansionError:
        skipped["too large"] += 1
        return
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError):
        reading.has_ended = False
    if not reading.has_ended:
        skipped["truncated shard"] += 1


class _ExpansionError(Exception):
    """A compressed tar that holds more than it may."""


class _Reading:
    """Where in a tar the reader is: at its end, in damage, and how far."""

    def __init__(self, skipped: Counter[str], max_bytes: int | None) -> None:
        self._skipped = skipped
        self._left = max_bytes
        self._is_in_damage = False
        self.has_ended = False

    def spend(self, count: int) -> None:
        """So many bytes more are read."""
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise _ExpansionError

    def see_header(self) -> None:
        """There is a member."""
        self.has_ended = self._is_in_damage = False

    def see_other(self, block: bytes | bytearray) -> None:
        """What should be a header is none."""
        if block and not any(block):
            self.has_ended = True  # blocks of zeros end a tar
        elif len(block) == tarfile.BLOCKSIZE and not self._is_in_damage:
            # The blocks of the damaged member's content look like damaged headers too.
            self._skipped["damaged member"] += 1
            self._is_in_damage = True


def _header_of(reading: _Reading) -> type[tarfile.TarInfo]:
    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            reading.spend(len(buf))
            try:
                header = super().frombuf(buf, encoding, errors)
                if header.type in _NOTES and header.size > _MAX_NOTE_BYTES:
                    raise tarfile.InvalidHeaderError  # type: ignore[attr-defined]
            except tarfile.HeaderError:
                reading.see_other(buf)
                raise
            reading.see_header()
            return header

    return Header
