"""Single files of the Hugging Face hub, taken up again at the byte where an earlier run stopped.

The hub's client begins a file anew after a kill, and loses up to 10 MB with each connection. Its
session, headers and errors are used here all the same, so that HF_ENDPOINT, HF_TOKEN and proxies
mean what they always do.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sseg_core.data.shards import cannot_write
from sseg_core.errors import ConfigError, DataError, SsegError, printable

Told = Callable[[int], None]
"""Is told how many more bytes of a file are there; fewer than none when they were thrown away."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRONG = 2  # times that a file may come with wrong bytes
_LOST = 6  # connections in a row that may bring nothing
_BACK_OFF_S = 1.0
_LONGEST_PAUSE_S = 30.0
_PASSING = frozenset({408, 429, 500, 502, 503, 504})  # of HTTP; they may succeed later


def download(url: str, path: Path, *, size: int | None, etag: str | None, told: Told) -> None:
    """Fetch a file of the hub to `path`, checked; what is beside it as `.incomplete` is taken up.

    Args:
        url: as `hf_hub_url` returns it.
        path: where it is put when it is whole.
        size: bytes that it must have, if known.
        etag: of the hub; its large files have their SHA-256 there.
        told: may raise to stop the download.

    Raises:
        DataError: it came wrong twice, or the disk is full.
        Exception: what the hub's client raises, for `hub_error`.
    """
    partial = path.with_name(f"{path.name}.incomplete")
    partial.touch()
    if there := partial.stat().st_size:
        told(there)
    for _ in range(_WRONG):
        _fetch_rest(url, partial, size, told)
        if _is_whole(partial, size, etag):
            partial.replace(path)
            return
        told(-partial.stat().st_size)
        partial.unlink()
        partial.touch()
    raise DataError(
        f"A file comes from {printable(url, None)} with other bytes than the hub states.",
        "Run the same command again later; a proxy or a mirror may be in the way.",
    )


def _fetch_rest(url: str, partial: Path, size: int | None, told: Told) -> None:
    """Fetch what a partial file lacks, over as many connections as that takes."""
    lost = 0
    while size is None or partial.stat().st_size < size:
        before = partial.stat().st_size
        try:
            _fetch_once(url, partial, size, told)
            if size is None:
                return
        except SsegError:
            raise
        except Exception as error:  # of whichever library the hub's client uses
            status = getattr(getattr(error, "response", None), "status_code", None)
            if lost == _LOST or (status is not None and status not in _PASSING):
                raise
        lost = 0 if partial.stat().st_size > before else lost + 1
        if lost > _LOST:
            raise ConnectionError("each connection breaks off before it brings anything")
        if lost:
            time.sleep(min(_LONGEST_PAUSE_S, _BACK_OFF_S * 2 ** (lost - 1)))


def _fetch_once(url: str, partial: Path, size: int | None, told: Told) -> None:
    from huggingface_hub import constants

    client: Any = import_module("huggingface_hub.utils")  # by name: its parts are not exported
    start = partial.stat().st_size
    # Compressed on the way, the bytes of a range would be others.
    headers = {**client.build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with client.get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        client.hf_raise_for_status(response)
        is_rest = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        is_part = response.status_code == 206
        if start and not (is_part and is_rest):  # it comes from the beginning, or from elsewhere
            told(-start)
            _write(partial, b"", "wb")
        if is_part and not is_rest:
            return
        for chunk in response.iter_bytes():
            _write(partial, chunk, "ab")
            told(len(chunk))
            if size is not None and partial.stat().st_size > size:
                return  # more than there is


def _write(path: Path, data: bytes, mode: Literal["ab", "wb"]) -> None:
    try:
        with path.open(mode) as stream:
            stream.write(data)
    except OSError as error:
        raise cannot_write(path, error) from error


def _is_whole(path: Path, size: int | None, etag: str | None) -> bool:
    if size is not None and path.stat().st_size != size:
        return False
    if etag is None or not _SHA256.fullmatch(etag):
        return True
    return file_sha256(path) == etag


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hub_error(
    repository: str, kind: Literal["dataset", "model"], error: Exception, revision: str = ""
) -> SsegError:
    """Return what to raise for an error of the hub's client: what is wrong, and the way out."""
    from huggingface_hub import constants, errors

    if isinstance(error, SsegError):
        return error
    name = printable(repository)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"{name!r} is no repository of the hub.", "It is called ORG/NAME there.")
    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{name} is open only to those who have accepted its terms.",
            f"Accept them at {page}, then run: hf auth login (or set HF_TOKEN).",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"The hub has no {kind} {name}, or it is private.",
            "Check the name; if it is private, run: hf auth login (or set HF_TOKEN).",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(
            f"{name} has no revision {printable(revision)!r}.",
            f"Choose a branch, tag or commit of {page}.",
        )
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return DataError(
            f"{name} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it.",
            f"Unset it, or where there is a connection run: hf download --repo-type {kind} {name}",
        )
    return DataError(
        f"{name} cannot be fetched from the hub ({type(error).__name__}).",
        "Check the connection, and run the same command again: it goes on where it stopped.",
    )
