"""Large files over HTTP: resumed at the byte, from one address or the next, checked by digest."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from sseg_core.data.photos import OnlyHttp
from sseg_core.data.sources import RemoteFile
from sseg_core.errors import DataError, printable
from sseg_core.tracking import Progress

_TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 2**20
_FRUITLESS = 4  # attempts in a row at one address that bring no byte
_BACK_OFF_S = 1.0
_LONGEST_PAUSE_S = 60.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # another attempt may succeed
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MB = 10**6


class _AddressError(Exception):
    """An address that does not give the file; another may."""


def fetch_file(file: RemoteFile, target: Path, progress: Progress) -> None:
    """Fetch a file to `target`, unless it is there; a download that was cut short is taken up.

    What has come lies beside it as `NAME.partial`, with `NAME.partial.json` telling which version
    of the file it is of. A mirror goes on with it only where a digest can prove the whole.

    Raises:
        DataError: no address gives the file, its digest is wrong, or the disk is full.
    """
    if target.exists() and (file.bytes is None or target.stat().st_size == file.bytes):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target)
    progress.start(f"fetch {printable(target.name, 30)}", _megabytes(file.bytes), "MB")
    shown = _Shown(progress)
    problems = []
    for url in (file.url, *file.mirrors):
        try:
            _fetch_from(url, file, partial, shown)
            partial.check_digest(file)
        except _AddressError as error:
            problems.append(f"{urlsplit(url).hostname}: {error}")
            continue
        partial.publish()
        return
    raise DataError(
        f"{printable(target.name)} cannot be fetched ({'; '.join(problems)}).",
        "Run the same command again later: it goes on where it stopped. Or fetch "
        f"{printable(file.url, None)} yourself and put it at {printable(target, None)}.",
    )


class _Partial:
    """What has come of a file, and of which version."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")

    def size(self) -> int:
        """Return how many bytes have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> dict[str, Any]:
        """Return what is known of the version: `tag`, and `bytes` of the whole."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    @contextmanager
    def writing(self, start: int, version: dict[str, Any]) -> Iterator[IO[bytes]]:
        """Open it to be written from a byte on."""
        try:
            self._note.write_text(json.dumps(version), encoding="utf-8")
            with self.path.open("r+b" if start else "wb") as stream:
                stream.truncate(start)
                stream.seek(start)
                yield stream
        except OSError as error:
            if error.errno is None or isinstance(error, (urllib.error.URLError, TimeoutError)):
                raise
            raise self._cannot_write(error) from error

    def discard(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def check_digest(self, file: RemoteFile) -> None:
        """Discard it if its bytes are not those of the publisher."""
        for kind, wanted in (("sha256", file.sha256), ("sha1", file.sha1), ("md5", file.md5)):
            if wanted is None:
                continue
            with self.path.open("rb") as stream:
                found = hashlib.file_digest(stream, kind).hexdigest()
            if found != wanted:
                self.discard()
                raise _AddressError(f"its {kind} is {found} instead of {wanted}")
            return

    def publish(self) -> None:
        """Give it its name."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.replace(self._target)
        self._note.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(
            f"Cannot write {printable(self.path, None)}: {(error.strerror or str(error)).lower()}.",
            "Make room, and run the same command again: it goes on where it stopped.",
        )


class _Shown:
    """Shows the bytes of a file as whole megabytes, each once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown = 0

    def at(self, size: int) -> None:
        """Show that so many bytes are there; after a new beginning, nothing until it is past."""
        if (more := size // _MB - self._shown) > 0:
            self._progress.advance(more)
            self._shown += more


def _fetch_from(url: str, file: RemoteFile, partial: _Partial, shown: _Shown) -> None:
    """Fetch what is missing from one address, in as many attempts as bring something.

    Raises:
        _AddressError: it does not give the file.
    """
    fruitless = 0
    while True:
        before = partial.size()
        try:
            if _attempt(url, file, partial, shown):
                return
            problem, pause = "the connection was closed too early", None
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING:
                raise _AddressError(f"the server answers {error.code}") from error
            problem, pause = f"the server answers {error.code}", _retry_after(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem, pause = _reason(error), None
        fruitless = 0 if partial.size() > before else fruitless + 1
        if fruitless == _FRUITLESS:
            raise _AddressError(problem)
        if fruitless:
            time.sleep(_BACK_OFF_S * 2 ** (fruitless - 1) if pause is None else pause)


def _attempt(url: str, file: RemoteFile, partial: _Partial, shown: _Shown) -> bool:
    """Ask once; tell whether the file is whole then."""
    start, version = partial.size(), partial.version()
    can_prove = bool(file.sha256 or file.sha1 or file.md5)
    if start and not (can_prove or version.get("tag")):
        start = 0  # another version could be glued to what there is
    if start and start == (file.bytes or version.get("bytes")):
        return True
    headers = {"User-Agent": "sseg", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if not can_prove:
            headers["If-Range"] = version["tag"]
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - of our table
    try:
        answer = urllib.request.build_opener(OnlyHttp).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        partial.discard()  # it is longer than the file
        return False
    with answer:
        start, total = _place(answer, start)
        _check(answer, file, total)
        version = {"tag": _tag(answer), "bytes": total}
        with partial.writing(start, version) as stream:
            _copy(answer, stream, file.bytes or total, shown)
        size = partial.size()
        if total is not None and size > total:
            partial.discard()
            raise _AddressError("it sends more bytes than it says")
        return size == total if total is not None else not file.bytes or size == file.bytes


def _place(answer: Any, asked: int) -> tuple[int, int | None]:
    """Return where the bytes of an answer begin, and the size of the whole file."""
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != asked:
            raise _AddressError("it sends another part of the file than was asked for")
        return asked, None if match[3] == "*" else int(match[3])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check(answer: Any, file: RemoteFile, total: int | None) -> None:
    kind = answer.headers.get_content_type()
    if kind == "text/html":
        raise _AddressError("it sends a web page in the place of the file")
    if file.bytes is not None and total is not None and total != file.bytes:
        raise _AddressError(f"its file has {total:,} bytes instead of {file.bytes:,}")


def _copy(answer: Any, stream: IO[bytes], most: int | None, shown: _Shown) -> None:
    """Write what comes; a body without end stops at the size that the file should have."""
    read: Callable[[int], bytes] = answer.read1  # whatever has come, so that a stall loses nothing
    while part := read(_CHUNK_BYTES):
        stream.write(part)
        size = stream.tell()
        shown.at(size)
        if most is not None and size > most:
            return


def _tag(answer: Any) -> str | None:
    """Return what tells versions of the file apart; weak tags do not."""
    tag: str | None = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    modified: str | None = answer.headers.get("Last-Modified")
    return modified


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    value = (error.headers.get("Retry-After") or "").strip()
    return min(float(value), _LONGEST_PAUSE_S) if value.isdigit() else None


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server does not answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return printable(cause.strerror.lower())
    return printable(str(cause) or type(cause).__name__)


def _megabytes(count: int | None) -> int | None:
    return None if count is None else count // _MB
