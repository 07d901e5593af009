"""Large files: whole and right in the end, whatever the servers do."""

from __future__ import annotations

import errno
import hashlib
import os
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


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_file, "_BACK_OFF_S", 0.01)
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
    url = file_server.add("/a.tar", BODY, drops=[1_000_000, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"a.tar cannot be fetched .*too early") as caught:
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert "goes on where it stopped" in caught.value.hint
    assert (tmp_path / "a.tar.partial").stat().st_size == 1_000_000
    fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert _left(tmp_path) == ["a.tar"]


def test_halves_of_two_versions_are_not_glued(file_server: Any, tmp_path: Path) -> None:
    """If the file was changed in between, it is fetched from its beginning."""
    url = file_server.add("/a.tar", b"x" * len(BODY), drops=[1_000_000, 0, 0, 0, 0])
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


def test_a_full_disk_is_one_sentence(
    file_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come is kept."""
    url = file_server.add("/a.tar", BODY)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(big_file, "_copy", full)
    with pytest.raises(DataError, match="no space left on device"):
        fetch_file(RemoteFile(url), tmp_path / "a.tar", SILENT)


def test_nobody_answers(tmp_path: Path) -> None:
    """One sentence that names the host, and the way to bring the file by hand."""
    with pytest.raises(DataError, match=r"127.0.0.1: connection refused") as caught:
        fetch_file(RemoteFile("http://127.0.0.1:9/a.tar"), tmp_path / "a.tar", SILENT)
    assert str(tmp_path / "a.tar") in caught.value.hint
