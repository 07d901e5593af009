"""Photos that a user names: files, folders, globs, http(s) URLs and standard input."""

from __future__ import annotations

import glob
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal
from urllib.parse import unquote, urlsplit

from sseg_core.data.images import IMAGE_SUFFIXES, ImageError
from sseg_core.data.keys import unique_keys
from sseg_core.errors import DataError, printable

STDIN = "-"
"""Stands for the image on standard input."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Photo:
    """An image that a user named.

    Attributes:
        name: a path, a URL, or `-`.
        stem: of the files that are made of it: plain letters, unique among the photos.
        kind: where it lies.
    """

    name: str
    stem: str
    kind: Literal["file", "url", "stdin"]

    @property
    def shown(self) -> str:
        """The name as it may be shown."""
        return "Standard input" if self.kind == "stdin" else printable(self.name)

    def version(self) -> str | None:
        """Return what changes when the photo does; None where that cannot be told."""
        if self.kind != "file":
            return None
        try:
            status = Path(self.name).stat()
        except OSError:
            return None
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, max_bytes: int, timeout: float) -> bytes:
        """Return the bytes of the image file.

        Args:
            max_bytes: of what a server or standard input may send.
            timeout: seconds to wait for a server, for each answer and ten times that for all.

        Raises:
            ImageError: it cannot be had.
        """
        if self.kind == "file":
            try:
                return Path(self.name).read_bytes()
            except OSError as error:
                reason = (error.strerror or "unknown error").lower()
                raise ImageError("unreadable", f"cannot be read: {reason}", self.shown) from error
        if self.kind == "stdin":
            return _read_some(sys.stdin.buffer, max_bytes, None)
        return _fetched(self.name, max_bytes, timeout)


def list_photos(inputs: Iterable[str]) -> list[Photo]:
    """Return the photos that the inputs name, each once, in their order.

    An input is a file, a folder (its images, sorted by name, not those of its subfolders), a glob
    (`**` goes into subfolders), an http(s) URL, or `-` for standard input.

    Raises:
        DataError: an input matches no file or is a URL of another kind, or a folder is unreadable.
    """
    found: dict[str, Literal["file", "url", "stdin"]] = {}
    for text in inputs:
        if text == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise DataError(
                    "There is no image on standard input.",
                    "Send one, for example: sseg predict - --classes NAMES < photo.jpg",
                )
            found[text] = "stdin"
        elif (match := _URL.match(text)) and not Path(text).exists():
            if match[1].lower() not in {"http", "https"}:
                raise DataError(
                    f"{printable(text)} cannot be fetched: only http and https URLs are.",
                    "Fetch the image first, and give the file.",
                )
            found[text] = "url"
        else:
            found.update((str(path), "file") for path in _files(text))
    stems = unique_keys(map(_stem, found))
    return [
        Photo(name, stem, kind) for (name, kind), stem in zip(found.items(), stems, strict=True)
    ]


def _files(text: str) -> list[Path]:
    path = Path(text)
    try:
        if path.is_dir():
            files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        elif path.exists():  # before globs: a file may have brackets in its name
            files = [path]
        else:
            files = [Path(match) for match in glob.glob(text, recursive=True)]
        files = sorted(file for file in files if file.is_file())
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise DataError(
            f"{printable(text)} cannot be read: {reason}.", "Check the name and its permissions."
        ) from error
    if not files:
        what = "no image in the folder" if path.is_dir() else "no file"
        raise DataError(
            f"There is {what} {printable(text)}.",
            "Give files, folders with images, globs such as 'photos/*.jpg', URLs, or - for "
            "standard input.",
        )
    return files


def _stem(name: str) -> str:
    if name == STDIN:
        return "stdin"
    if _URL.match(name):
        return PurePosixPath(unquote(urlsplit(name).path)).stem or "image"
    return Path(name).stem


class OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http and https alone."""

    max_redirections = 5

    def redirect_request(  # noqa: PLR0917 - as in the base class
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to the new address, if that is http or https."""
        if urlsplit(newurl).scheme.lower() not in {"http", "https"}:
            raise urllib.error.URLError(f"it leads to {printable(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetched(url: str, max_bytes: int, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "sseg", "Accept": "image/*"})  # noqa: S310 - checked
    deadline = time.monotonic() + 10 * timeout
    try:
        with urllib.request.build_opener(OnlyHttp).open(request, timeout=timeout) as answer:
            kind = answer.headers.get_content_type()
            if kind.startswith("text/"):
                problem = f"is no image: the server sent {printable(kind)}"
                raise ImageError("unsupported", problem, printable(url))
            data = _read_some(answer, max_bytes, deadline)
            if answer.length:  # what the server promised and did not send
                problem = (
                    f"ends {answer.length:,} bytes too early: the server closed the connection"
                )
                raise ImageError("truncated", problem, printable(url))
            return data
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(
            "unreachable", f"cannot be fetched: {_reason(error)}", printable(url)
        ) from error


def _read_some(stream: IO[bytes], limit: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := stream.read(_CHUNK):
        size += len(part)
        if size > limit:
            raise ImageError("too large", f"has more than {limit / 1e6:,.0f} megabytes")
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError("timed out")
        parts.append(part)
    return b"".join(parts)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {printable(error.reason)}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server does not answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return printable(cause.strerror.lower())
    return printable(str(cause) or type(cause).__name__)
