"""Large files over HTTP: resumed at the byte, from one address or the next, checked by digest."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sseg_core.data.fetch.partial_file import PartialFile
from sseg_core.data.photos import OnlyHttp
from sseg_core.data.sources import RemoteFile
from sseg_core.errors import DataError, printable
from sseg_core.tracking import Progress

_TIMEOUT_S = 60.0  # without a byte
_CHUNK_BYTES = 2**20
_FRUITLESS = 4  # attempts in a row at one address that bring no byte
_PATIENCE = 8  # the same, once it has sent something: two minutes without a network
_BACK_OFF_S = 1.0
_LONGEST_PAUSE_S = 60.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # another attempt may succeed
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_WHOLE = re.compile(r"bytes \*/(\d+)")  # of an answer 416
_MB = 10**6


class _LostError(Exception):
    """A connection that broke; another attempt may succeed."""


class _AddressError(Exception):
    """An address that does not give the file; another may."""


def fetch_file(file: RemoteFile, target: Path, progress: Progress) -> None:
    """Fetch a file to `target`, unless it is there; a download that was cut short is taken up.

    What has come lies beside it as `NAME.partial`, with `NAME.partial.json` telling which version
    of the file it is of. A mirror goes on with it only where a digest can prove the whole.

    Raises:
        DataError: no address gives the file, its digest is wrong, or the disk is full.
    """
    name = printable(target.name)
    if target.exists():
        problem = _problem_of(target, file)
        if problem is None:
            return
        progress.message(f"{name} is fetched anew: {problem}")
    partial = PartialFile(target)
    partial.make_folder()
    shown = _Shown(progress, printable(target.name, 30))
    problems = []
    for url in (file.url, *file.mirrors):
        try:
            _fetch_from(url, file, partial, shown)
            problem = _problem_of(partial.path, file)
        except _AddressError as error:
            problem = str(error)
        else:
            if problem is None:
                partial.publish()
                return
            partial.discard()
        problems.append(f"{urlsplit(url).hostname}: {problem}")
        progress.message(problems[-1])
    raise DataError(
        f"{name} cannot be fetched ({'; '.join(problems)}).",
        "Run the same command again later: it goes on where it stopped. Or fetch "
        f"{printable(file.url, None)} yourself and put it at {printable(target, None)}.",
    )


def _problem_of(path: Path, file: RemoteFile) -> str | None:
    """Return why a file is not the publisher's; None if nothing speaks against it."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"it has {size:,} bytes instead of {file.bytes:,}"
    for kind, wanted in (("sha256", file.sha256), ("sha1", file.sha1), ("md5", file.md5)):
        if wanted is not None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, kind).hexdigest()
            return None if found == wanted else f"its {kind} is {found} instead of {wanted}"
    with path.open("rb") as stream:
        is_page = stream.read(64).lstrip().startswith(b"<")
    if is_page:
        return "it is a web page"
    # Its list of members is at the end: one that was cut short has none.
    if file.name.endswith(".zip") and not zipfile.is_zipfile(path):
        return "it is no whole zip"
    return None


class _Shown:
    """Shows the bytes that come as whole megabytes, each once."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._shown: int | None = None

    def begin(self, start: int, total: int | None) -> None:
        """Show a bar of what is missing, so that its rate is not that of an earlier run."""
        if self._shown is None:
            self._shown = start // _MB
            left = None if total is None else total // _MB - self._shown
            self._progress.start(f"fetch {self._name}", left, "MB")

    def at(self, size: int) -> None:
        """Show that so many bytes are there; after a new beginning, nothing until it is past."""
        if self._shown is not None and (more := size // _MB - self._shown) > 0:
            self._progress.advance(more)
            self._shown += more


def _fetch_from(url: str, file: RemoteFile, partial: PartialFile, shown: _Shown) -> None:
    """Fetch what is missing from one address, in as many attempts as bring something.

    Raises:
        _AddressError: it does not give the file.
    """
    fruitless, patience = 0, _FRUITLESS
    while True:
        before, pause = partial.size(), None
        try:
            if _attempt(url, file, partial, shown):
                return
            problem = "the connection was closed too early"
        except urllib.error.HTTPError as error:
            problem, pause = f"the server answers {error.code}", _retry_after(error)
            if error.code not in _PASSING:
                raise _AddressError(problem) from error
        except _LostError as error:
            problem = str(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = _reason(error)
        if partial.size() > before:
            fruitless, patience = 0, _PATIENCE
            continue
        fruitless += 1
        if fruitless == patience:
            raise _AddressError(problem)
        backed_off = min(_BACK_OFF_S * 2 ** (fruitless - 1), _LONGEST_PAUSE_S)
        time.sleep(backed_off if pause is None else pause)


def _attempt(url: str, file: RemoteFile, partial: PartialFile, shown: _Shown) -> bool:
    """Ask once; tell whether the file is whole then."""
    start, version = partial.size(), partial.version()
    can_prove = bool(file.sha256 or file.sha1 or file.md5)
    tag = version.get("tag") if version.get("url") == url else None
    if start and not (can_prove or tag):
        start = 0  # another version could be glued to what there is
    if start and start == (file.bytes or version.get("bytes")):
        return True
    headers = {"User-Agent": "sseg", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if not can_prove:
            headers["If-Range"] = str(tag)
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - of our table
    try:
        answer = urllib.request.build_opener(OnlyHttp).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        end = _WHOLE.fullmatch(error.headers.get("Content-Range", "").strip())
        if end and int(end[1]) == start:
            return True
        partial.discard()  # it is longer than the file
        return False
    with answer:
        start, total = _place(answer, start)
        _check(answer, file, total)
        most = file.bytes or total
        shown.begin(start, most)
        with partial.writing(start, {"url": url, "tag": _tag(answer), "bytes": total}) as stream:
            for part in _received(answer):
                stream.write(part)
                shown.at(stream.tell())
                if most is not None and stream.tell() > most:
                    break  # or a body without end would fill the disk
    size = partial.size()
    if most is not None and size > most:
        partial.discard()
        raise _AddressError("it sends more bytes than the file has")
    return most is None or size == most


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


def _received(answer: Any) -> Iterator[bytes]:
    """Yield what comes.

    Raises:
        _LostError: the connection broke.
    """
    read: Callable[[int], bytes] = answer.read1  # whatever has come, so that a stall loses nothing
    try:
        while part := read(_CHUNK_BYTES):
            yield part
    except OSError as error:
        raise _LostError(_reason(error)) from error


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
