"""Large files: whole and right in the end, whatever the servers do."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sseg_core.data.fetch import big_file
from sseg_core.data.fetch.big_file import fetch_file
from sseg_core.data.sources import RemoteFile
from sseg_core.errors import DataError
from sseg_core.tracking import SILENT

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
EIGHT = [0] * 8  # attempts without a byte, after which one is given up that had sent something


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_file, "_BACK_OFF_S", 0.001)
    monkeypatch.setattr(big_file, "_TIMEOUT_S", 2.0)


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(file_server: Any, tmp_path: Path) -> None:
    """It comes whole under its name, with nothing beside it, and is not asked for again."""
    url = file_server.add("/a.tar", BODY)
    remote = RemoteFile(url, bytes=len(BODY), sha256=SHA256)
    target = tmp_path / "deep" / "a.tar"
    fetch_file(remote, target, SILENT)
    assert target.read_bytes() == BODY
    assert _left(target.parent) == ["a.tar"]
    fetch_file(remote, target, SILENT)
    assert len(file_server.asked) == 1


@pytest.mark.parametrize("known", [True, False])
def test_lost_connections_are_taken_up_at_the_byte(
    file_server: Any, tmp_path: Path, known: bool
) -> None:
    """With a digest of the publisher, and without one, by the server's own mark."""
    url = file_server.add("/a.tar", BODY, drops=[1_000_000, 500_000, 0])
    remote = RemoteFile(url, sha256=SHA256) if known else RemoteFile(url)
    fetch_file(remote, tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert file_server.ranges("/a.tar") == [
        None, "bytes=1000000-", "bytes=1500000-", "bytes=1500000-",
    ]  # fmt: skip


def test_a_later_run_goes_on(
    file_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come before a failure is kept for it."""
    url = file_server.add("/a.tar", BODY, drops=[1_000_000, *EIGHT])
    with pytest.raises(DataError, match=r"a.tar cannot be fetched .*too early") as caught:
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert "goes on where it stopped" in caught.value.hint
    assert (tmp_path / "a.tar.partial").stat().st_size == 1_000_000
    fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert _left(tmp_path) == ["a.tar"]


def test_halves_of_two_versions_are_not_glued(file_server: Any, tmp_path: Path) -> None:
    """If the file was changed in between, it is fetched from its beginning."""
    url = file_server.add("/a.tar", b"x" * len(BODY), drops=[1_000_000, *EIGHT])
    with pytest.raises(DataError):
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    file_server.add("/a.tar", BODY, tag='"2"')
    fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY


@pytest.mark.parametrize("options", [{"ranges": "ignored"}, {"tag": None}])
def test_a_server_without_ranges_begins_anew(
    file_server: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Also one that does not tell versions apart."""
    url = file_server.add("/a.tar", BODY, drops=[1_000_000], **options)
    fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_another_part_than_asked_for_is_not_taken(file_server: Any, tmp_path: Path) -> None:
    """A mirror is asked then, and goes on where a digest can prove the whole."""
    url = file_server.add("/a.tar", BODY, drops=[1_000_000], ranges="wrong")
    mirror = file_server.add("/b.tar", BODY)
    with pytest.raises(DataError, match="another part of the file"):
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    fetch_file(RemoteFile(url, (mirror,), sha256=SHA256), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert file_server.ranges("/b.tar") == ["bytes=1000000-"]


def test_busy_servers_are_asked_again(file_server: Any, tmp_path: Path) -> None:
    """After the time that they name; servers that refuse are not."""
    url = file_server.add("/a.tar", BODY, statuses=[503, 429], retry_after="0")
    fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    gone = file_server.add("/gone.tar", BODY, statuses=[403, 200])
    with pytest.raises(DataError, match=r"127.0.0.1: the server answers 403"):
        fetch_file(RemoteFile(gone), tmp_path / "gone.tar", SILENT)
    assert len(file_server.ranges("/gone.tar")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "text/html; charset=utf-8"}, "a web page in the place of the file"),
        ({"length": 2_999_999}, "2,999,999 bytes instead of 3,000,000"),
        ({"location": "file:///etc/passwd"}, "302"),
        ({"location": "/a.tar"}, "302"),
    ],
)
def test_what_is_not_the_file_is_refused(
    file_server: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """A page, another size, another scheme, a loop: one sentence, and nothing is left."""
    url = file_server.add("/a.tar", BODY, **options)
    with pytest.raises(DataError, match=message):
        fetch_file(RemoteFile(url, bytes=len(BODY)), tmp_path / "a.tar", SILENT)
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_a_wrong_digest_is_not_taken(file_server: Any, tmp_path: Path, kind: str) -> None:
    """The mirror is asked; without one it is an error, and the next run begins anew."""
    digests = {kind: hashlib.new(kind, BODY).hexdigest()}
    bad = file_server.add("/bad.tar", BODY[:-1] + b"?")
    good = file_server.add("/good.tar", BODY)
    with pytest.raises(DataError, match=f"its {kind} is "):
        fetch_file(RemoteFile(bad, **digests), tmp_path / "a.tar", SILENT)
    assert _left(tmp_path) == []
    fetch_file(RemoteFile(bad, (good,), **digests), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY


@pytest.mark.parametrize("known", [True, False])
def test_a_disk_that_takes_no_more_is_one_sentence(
    file_server: Any, tmp_path: Path, known: bool
) -> None:
    """What has come is kept."""
    url = file_server.add("/a.tar", BODY)
    remote = RemoteFile(url, sha256=SHA256 if known else None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"Cannot write .*a.tar.partial: file too large") as e:
            fetch_file(remote, tmp_path / "a.tar", SILENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Make room" in e.value.hint
    fetch_file(remote, tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert file_server.ranges("/a.tar") == [None, "bytes=2000000-"]


def test_a_folder_that_cannot_be_made(file_server: Any, tmp_path: Path) -> None:
    """One sentence, before anything is asked for."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"Cannot write .*: not a directory"):
        fetch_file(RemoteFile(file_server.add("/a.tar")), tmp_path / "file/x/a.tar", SILENT)
    assert file_server.asked == []


def test_nobody_answers(tmp_path: Path) -> None:
    """One sentence that names the host, and the way to bring the file by hand."""
    with pytest.raises(DataError, match=r"127.0.0.1: connection refused") as caught:
        fetch_file(RemoteFile("http://127.0.0.1:9/a.tar"), tmp_path / "a.tar", SILENT)
    assert str(tmp_path / "a.tar") in caught.value.hint


@contextmanager
def _raw_server(*answers: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """Serve one connection after the other, each as one of the functions says; yield the URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                answer(connection, connection.recv(65536).decode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.tar"
    listening.close()
    thread.join(10)


def _reset(connection: socket.socket, _: str) -> None:
    """Send a part, and let the client read it before the connection is torn down."""
    head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(BODY)}\r\n\r\n'
    connection.sendall(head.encode() + BODY[:1_000_000])
    threading.Event().wait(0.3)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _stall(connection: socket.socket, request: str) -> None:
    """Send nothing for longer than the client waits."""
    assert "Range: bytes=1000000-" in request
    assert 'If-Range: "1"' in request
    connection.settimeout(10)
    connection.recv(1)  # returns when the client has gone


def _rest(connection: socket.socket, _: str) -> None:
    head = f"Content-Range: bytes 1000000-{len(BODY) - 1}/{len(BODY)}\r\n\r\n"
    connection.sendall(b"HTTP/1.1 206 Partial Content\r\n" + head.encode() + BODY[1_000_000:])


def test_torn_and_silent_connections_are_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset is no fault of the disk, and silence no end of the file."""
    monkeypatch.setattr(big_file, "_TIMEOUT_S", 0.5)
    with _raw_server(_reset, _stall, _rest) as url:
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_a_body_without_end_is_refused(tmp_path: Path) -> None:
    """As soon as it is longer than the file; the disk is not filled."""

    def endless(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                connection.sendall(BODY)
        except OSError:  # the client has gone
            return

    with (
        _raw_server(endless) as url,
        pytest.raises(DataError, match="it sends more bytes than the file has"),
    ):
        fetch_file(RemoteFile(url, bytes=len(BODY)), tmp_path / "a.tar", SILENT)
    assert _left(tmp_path) == []


def test_a_whole_partial_file_is_not_fetched_again(tmp_path: Path) -> None:
    """A server that told no size says in the end that there is no more of it."""

    def no_more(connection: socket.socket, _: str) -> None:
        head = f"HTTP/1.1 416 No\r\nContent-Range: bytes */{len(BODY)}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 0\r\n\r\n")

    with _raw_server(no_more) as url:
        (tmp_path / "a.tar.partial").write_bytes(BODY)  # as a kill before the rename leaves it
        note = {"url": url, "tag": '"1"', "bytes": None}
        (tmp_path / "a.tar.partial.json").write_text(json.dumps(note))
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert _left(tmp_path) == ["a.tar"]


def test_without_a_digest_a_mirror_begins_anew(file_server: Any, tmp_path: Path) -> None:
    """Even if its mark is the same: it is that of another server."""
    url = file_server.add("/a.tar", b"x" * len(BODY), drops=[1_000_000, *EIGHT])
    mirror = file_server.add("/b.tar", BODY)
    fetch_file(RemoteFile(url, (mirror,)), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert file_server.ranges("/b.tar") == [None]


@pytest.mark.parametrize("body", [b"\n<!DOCTYPE html>", b"PK\x03\x04 and not its end"])
def test_what_is_no_zip_is_seen_without_a_digest(
    file_server: Any, tmp_path: Path, body: bytes
) -> None:
    """Whatever the server calls it; the mirror is asked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"1")
    bad = file_server.add("/a.zip", body)
    good = file_server.add("/b.zip", stream.getvalue())
    with pytest.raises(DataError, match=r"it is (a web page|no whole zip)"):
        fetch_file(RemoteFile(bad), tmp_path / "a.zip", SILENT)
    assert _left(tmp_path) == []
    fetch_file(RemoteFile(bad, (good,)), tmp_path / "a.zip", SILENT)
    assert (tmp_path / "a.zip").read_bytes() == stream.getvalue()


def test_a_file_that_was_put_there_is_checked(file_server: Any, tmp_path: Path) -> None:
    """The right one is taken, with no server at all; a wrong one is fetched anew."""
    (tmp_path / "a.tar").write_bytes(BODY)
    fetch_file(RemoteFile("http://127.0.0.1:9/a.tar", sha256=SHA256), tmp_path / "a.tar", SILENT)
    (tmp_path / "a.tar").write_bytes(BODY[:-1] + b"?")
    url = file_server.add("/a.tar", BODY)
    fetch_file(RemoteFile(url, bytes=len(BODY), sha256=SHA256), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY


class Bar:
    """Keeps what a progress bar would show."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    def start(self, task: str, total: int | None, unit: str) -> None:
        assert unit == "MB"
        self.total = total

    def advance(self, count: int = 1, **fields: str) -> None:
        self.done += count

    def message(self, text: str) -> None:
        pass


@pytest.mark.parametrize("sized", [True, False])
def test_progress_is_of_what_is_missing(file_server: Any, tmp_path: Path, sized: bool) -> None:
    """The size is the server's if the table has none; no byte is counted twice."""
    drops = [1_000_000, *EIGHT, 1_500_000]
    url = file_server.add("/a.tar", BODY, drops=drops)
    remote = RemoteFile(url, bytes=len(BODY) if sized else None)
    first, second = Bar(), Bar()
    with pytest.raises(DataError):
        fetch_file(remote, tmp_path / "a.tar", first)
    assert (first.done, first.total) == (1, 3)
    fetch_file(remote, tmp_path / "a.tar", second)
    assert (second.done, second.total) == (2, 2)


def test_a_proxy_is_used(file_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the environment: many clusters reach the web through one alone."""
    proxy = file_server.add("/").rstrip("/")
    file_server.add("http://publisher.invalid/a.tar", BODY)
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    fetch_file(RemoteFile("http://publisher.invalid/a.tar"), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
