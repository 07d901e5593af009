"""Where shards lie: files and URLs, many at once by a pattern, read and written with retries.

URLs are fsspec's: http and https need `aiohttp`, s3 and gs the user's `s3fs` and `gcsfs`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit
from uuid import uuid4

import braceexpand

from sseg_core.data.retries import TIMEOUT_S, in_time, reason_of, with_retries
from sseg_core.errors import ConfigError, DataError, printable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")
_BUFFER_BYTES = 2**20  # tar headers are read in small pieces
_PACKAGES = {
    "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs",
    "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip


class ShardError(DataError):
    """A shard that cannot be opened, or not be read to its end.

    Attributes:
        location: of the shard, as it may be shown.
        reason: why, in a few words.
    """

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(
            f"Cannot read the shard {location}: {reason}.",
            "Check that it is there; if it belongs to an artifact, make that again.",
        )
        self.location = location
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # It crosses process borders; the default would call __init__ with the message alone.
        return ShardError, (self.location, self.reason)


def is_url(location: str) -> bool:
    """Tell whether a location is a URL rather than a path."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*://", location))


def are_shards(text: str) -> bool:
    """Tell whether `text` names shards, such as `data/{000..007}.tar`, and not an artifact."""
    return is_url(text) or "{" in text or text.endswith(".tar")


def expand_shards(pattern: str) -> dict[str, str]:
    """Return the locations that a pattern with braces names, by the file name of the shard.

    Raises:
        ConfigError: unbalanced braces, a name that cannot be that of a shard, or one name twice.
    """
    try:
        locations = list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise ConfigError(
            f"The braces in {printable(pattern)!r} do not match.",
            "Write shards as in data/{00000..00999}.tar.",
        ) from error
    names = [_shard_name(location) for location in locations]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{printable(pattern)!r} names {count} shards that are all called {name}.",
            "The masks of a shard are stored under its name: run once for each folder.",
        )
    return dict(zip(names, locations, strict=True))


def check_url(url: str) -> None:
    """Raise ConfigError unless what is needed for such URLs is installed."""
    _filesystem(url)


def absolute(location: str) -> str:
    """Return a path as it reads from any working folder; a URL stays as it is."""
    return location if is_url(location) else os.path.abspath(location)


def join(base: str, name: str) -> str:
    """Return the location of the file `name` in the folder or URL `base`."""
    return f"{base.rstrip('/')}/{name}" if is_url(base) else str(Path(base) / name)


def open_shard(location: str) -> IO[bytes]:
    """Open a shard to be read from its beginning; of a URL, lost connections are taken up again.

    Raises:
        ShardError: it cannot be opened; while reading: it cannot be read. Of a URL that means
            that three attempts in a row failed, or took too long.
        ConfigError: no package for such URLs is installed.
    """
    raw = _RemoteFile(location) if is_url(location) else _LocalFile(location)
    return io.BufferedReader(raw, _BUFFER_BYTES)


def shard_size(location: str) -> int | None:
    """Return the bytes of a shard; None where a server does not tell.

    Raises:
        ShardError: it cannot be found out.
        ConfigError: no package for such URLs is installed.
    """
    if not is_url(location):
        with _LocalFile(location) as file:
            return file.seek(0, io.SEEK_END)
    filesystem = _filesystem(location)
    try:
        size = with_retries(lambda: in_time(lambda: filesystem.size(location)))
    except Exception as error:  # each file system raises the errors of its client library
        raise _unreadable(location, error) from error
    return None if size is None else int(size)


def store_file(source: Path, target: str) -> None:
    """Copy a finished file to a path or URL, so that it is there as a whole or not at all.

    Raises:
        DataError: it cannot be written.
        ConfigError: no package for such URLs is installed.
    """
    try:
        if is_url(target):
            filesystem = _filesystem(target)
            with_retries(lambda: filesystem.put_file(str(source), target))
            return
        path = Path(target)
        partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, partial)
        partial.replace(path)
    except ConfigError:
        raise
    except Exception as error:  # each file system raises the errors of its client library
        raise DataError(
            f"Cannot write {printable(target)}: {reason_of(error)}.",
            "Mend it, and run the same command again: it goes on with this shard.",
        ) from error


class _LocalFile(io.FileIO):
    """A file whose errors name it, also where its disk fails while it is read."""

    def __init__(self, path: str) -> None:
        try:
            super().__init__(path)
        except OSError as error:
            raise _unreadable(path, error) from error

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _unreadable(str(self.name), error) from error


class _RemoteFile(io.RawIOBase):
    """The bytes of a URL, in order; after an error it is opened anew at the same place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._filesystem = _filesystem(url)
        self._position = 0
        self._stream: Any = None
        self._read(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()

    def _read(self, length: int) -> bytes:
        def once() -> bytes:
            # An attempt that fails loses its stream, which a thread may still wait for.
            stream, self._stream = self._stream, None
            self._stream, data = in_time(lambda: self._read_from(stream, length))
            return data

        try:
            return with_retries(once)
        except Exception as error:  # each file system raises the errors of its client library
            raise _unreadable(self._url, error) from error

    def _read_from(self, stream: Any, length: int) -> tuple[Any, bytes]:
        """Return the stream, opened if there is none, and what it gives at the present position."""
        if stream is None:
            stream = self._filesystem.open(self._url, "rb")
            if self._position and stream.seekable():
                stream.seek(self._position)
            else:
                left = self._position
                while left:
                    left -= len(stream.read(min(left, _BUFFER_BYTES))) or left
        data: bytes = stream.read(length) if length else b""
        size = getattr(stream, "size", None)
        if length and not data and size is not None and self._position < size:
            raise OSError("the connection was closed too early")
        return stream, data


def _filesystem(url: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    scheme = url.partition("://")[0]
    try:
        return fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        raise ConfigError(
            f"{scheme}:// URLs need a package that is not installed.",
            f"Install it with: pip install {package}" if package else f"{error}",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"There is no way to read {scheme}:// URLs.", "Use a path, https://, s3:// or gs://."
        ) from error


def _options(scheme: str) -> dict[str, Any]:
    """Return options of a file system: aiohttp ends a download after five minutes in all."""
    if scheme not in {"http", "https"}:
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
    return {"client_kwargs": {"timeout": timeout}}


def _shard_name(location: str) -> str:
    path = urlsplit(location).path if is_url(location) else location
    name = PurePosixPath(path).name
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{printable(location)!r} is not the name of a shard.",
            "A shard is a file such as 00042.tar.",
        )
    return name


def _unreadable(location: str, error: Exception) -> ShardError:
    return ShardError(printable(location, limit=200), reason_of(error))
