"""Shards by pattern and by URL: names, retries, and what cannot be read in one sentence."""

from __future__ import annotations

import pickle
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from sseg_core.config import LoaderConfig
from sseg_core.data import retries, urls
from sseg_core.data.images import encode_jpeg
from sseg_core.data.loader import make_loader
from sseg_core.data.order import SampleOrder, ShardSet
from sseg_core.data.shards import Sample, pack_sample, read_shard, write_tar
from sseg_core.data.urls import (
    ShardError,
    are_shards,
    expand_shards,
    is_url,
    join,
    open_shard,
    shard_size,
    store_file,
)
from sseg_core.errors import ConfigError, DataError

SAMPLES = [Sample(f"s{i}", bytes([i]) * 50_000, ("a cat",)) for i in range(40)]


class Server(BaseHTTPRequestHandler):
    """Serves one file; the folder in the path says how badly.

    /ranges/ and /whole/ with and without byte ranges, /cut/ ends the first two answers early,
    /busy/ answers 503 twice, /down/ always; /mute/ takes a request and says nothing, /slow/ does
    so in the middle of the file.
    """

    content = b""
    requests: ClassVar[Counter[str]] = Counter()
    hang = threading.Event()

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        mode = self.path.split("/")[1]
        self.requests[f"{mode} {'GET' if body else 'HEAD'}"] += 1
        if mode == "mute":
            self.hang.wait(30)
            return
        status = {"gone": 404, "secret": 403, "down": 503}.get(mode, 200)
        if mode == "busy" and self.requests["busy HEAD"] + self.requests["busy GET"] <= 2:
            status = 503
        if status != 200:
            self.send_error(status)
            return
        data = self.content
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and mode != "whole":
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "none" if mode == "whole" else "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            if mode == "slow" and self.requests["slow GET"] > 1:
                self.hang.wait(30)
            cut = mode == "cut" and self.requests["cut GET"] <= 2
            self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="http:// URLs need aiohttp")
    monkeypatch.setattr(retries, "_BACK_OFF_S", 0.001)
    path = tmp_path / "source.tar"
    write_tar(path, [member for item in SAMPLES for member in pack_sample(item, "jpg")])
    monkeypatch.setattr(Server, "content", path.read_bytes())
    Server.requests.clear()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(Server, "hang", threading.Event())
    yield f"http://127.0.0.1:{http.server_address[1]}"
    Server.hang.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("mode", ["ranges", "whole", "cut", "busy"])
def test_a_shard_comes_whole_over_http(server: str, mode: str) -> None:
    """With ranges or without, through broken connections and a busy server."""
    skipped: Counter[str] = Counter()
    assert list(read_shard(f"{server}/{mode}/000000.tar", skipped)) == SAMPLES
    assert not skipped


@pytest.mark.parametrize(
    ("mode", "reason", "most_requests"),
    [("gone", "no such file", 2), ("secret", "forbidden", 2), ("down", "unavailable", 6)],
)
def test_what_cannot_be_read_is_one_sentence(
    server: str, mode: str, reason: str, most_requests: int
) -> None:
    """The URL and the reason; what will not change is not asked for three times."""
    with pytest.raises(
        DataError, match=rf"Cannot read the shard {server}/{mode}/7.tar: .*{reason}"
    ):
        list(read_shard(f"{server}/{mode}/7.tar"))
    assert Server.requests.total() <= most_requests


@pytest.mark.parametrize("mode", ["mute", "slow"])
def test_a_server_that_says_nothing_is_given_up(
    server: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Three times, each for a bounded time, whether it is silent at once or later."""
    monkeypatch.setattr(retries, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(Server, "content", Server.content * 8)  # more than is read at once
    with pytest.raises(ShardError, match=rf"{server}/{mode}/7.tar: no answer within 0.3 s"):
        list(read_shard(f"{server}/{mode}/7.tar"))


def test_what_a_late_answer_brings_is_not_mixed_in(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that was given up may end later; the stream stays where it was."""
    monkeypatch.setattr(retries, "TIMEOUT_S", 0.5)
    real, delays = urls._RemoteFile._read_from, iter([0.0, 0.0, 0.7, 0.0, 0.7])

    def sometimes_late(self: object, stream: object, length: int) -> object:
        result = real(self, stream, length)
        time.sleep(next(delays, 0.0))
        return result

    monkeypatch.setattr(urls, "_BUFFER_BYTES", 2**16)
    monkeypatch.setattr(urls._RemoteFile, "_read_from", sometimes_late)
    assert list(read_shard(f"{server}/ranges/000000.tar")) == SAMPLES
    assert next(delays, None) is None


def test_an_order_goes_on_around_urls_that_fail(server: str) -> None:
    """Of four shards two are gone: they are counted, and the others take their place."""
    places = [f"{server}/{mode}/{i}.tar" for i, mode in enumerate(["ranges", "gone"] * 2)]
    order = SampleOrder(
        (ShardSet(tuple((url, None) for url in places), 1, "far"),), (40,), 0, 160, 8
    )
    skipped: Counter[str] = Counter()
    found = Counter(sample.key for sample, _ in order.chunk(0, skipped))
    assert found == {sample.key: 4 for sample in SAMPLES}
    assert 2 <= skipped["unreadable shard"] <= 4


def ids(texts: Sequence[str]) -> np.ndarray:
    return np.ones((len(texts), 2), np.int64)


def test_workers_read_urls_that_their_parent_has_read_too(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent measures a shard before it starts the workers: its connections stay its own."""
    picture = encode_jpeg(np.full((40, 40, 3), 128, np.uint8), 90)
    members = [
        m for i in range(8) for m in pack_sample(Sample(f"s{i}", picture, ("a cat",)), "jpg")
    ]
    write_tar(tmp_path / "pictures.tar", members)
    monkeypatch.setattr(Server, "content", (tmp_path / "pictures.tar").read_bytes())
    shards = tuple((f"{server}/{mode}/0.tar", None) for mode in ("ranges", "gone", "whole"))
    batches = make_loader(
        [ShardSet(shards, 1, "far")],
        LoaderConfig(load_size=32, shuffle_buffer=4, workers=2),
        batch_size=4,
        seed=0,
        start_batch=0,
        tokenizer=ids,
    )
    seen, skipped = set(), Counter[str]()
    for batch in islice(batches, 20):
        seen.update(batch.keys)
        skipped.update(batch.skipped)
    assert seen == {f"s{i}" for i in range(8)}
    assert set(skipped) == {"unreadable shard"}


def test_the_size_of_a_shard(server: str, tmp_path: Path) -> None:
    """Of a file and of a URL; one that is not there cannot be told."""
    size = len(Server.content)
    assert shard_size(f"{server}/ranges/0.tar") == shard_size(str(tmp_path / "source.tar")) == size
    for missing in (f"{server}/gone/0.tar", str(tmp_path / "none.tar")):
        with pytest.raises(ShardError, match="no such file"):
            shard_size(missing)


def test_an_unreadable_shard_crosses_processes() -> None:
    """The error of a worker arrives as it was."""
    error = pickle.loads(pickle.dumps(ShardError("a.tar", "no such file")))
    assert (error.location, error.reason) == ("a.tar", "no such file")
    assert str(error) == str(ShardError("a.tar", "no such file"))


def test_a_server_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is tried again, then told."""
    pytest.importorskip("aiohttp", reason="http:// URLs need aiohttp")
    monkeypatch.setattr(retries, "_BACK_OFF_S", 0.001)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/1\.tar: connect call failed"):
        open_shard("http://127.0.0.1:9/1.tar")


def test_a_pattern_names_shards() -> None:
    """Braces expand in order, and a query is no part of a name."""
    assert expand_shards("data/{008..010}.tar") == {
        "008.tar": "data/008.tar",
        "009.tar": "data/009.tar",
        "010.tar": "data/010.tar",
    }
    assert expand_shards("https://h/{a,b}.tar?key=1") == {
        "a.tar": "https://h/a.tar?key=1",
        "b.tar": "https://h/b.tar?key=1",
    }
    assert len(expand_shards("s3://bucket/cc12m/{00000..01242}.tar")) == 1243


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("data/{000..", "braces"),
        ("{a,b}/{0..3}.tar", "2 shards that are all called"),
        ("data/notes.txt{,}", "not the name of a shard"),
        ("https://host/?shard=1.tar", "not the name of a shard"),
        ("data/.tar", "not the name of a shard"),
    ],
)
def test_a_pattern_that_cannot_be_used(pattern: str, message: str) -> None:
    """Said in one sentence, before anything is read."""
    with pytest.raises(ConfigError, match=message):
        expand_shards(pattern)


def test_what_is_a_pattern_and_what_a_reference() -> None:
    """URLs, braces and tar files are shards; all else is the reference of an artifact."""
    assert all(map(are_shards, ("s3://b/x", "d/{0..3}.tar", "x.tar", "file:///x.tar")))
    assert not any(map(are_shards, ("cc12m", "cc12m:v2", "store/pairs/cc12m/v1", "./x")))
    assert is_url("gs://b/x")
    assert not is_url("C:/data/x.tar")
    assert join("s3://b/masks/", "0.tar") == "s3://b/masks/0.tar"
    assert join("masks", "0.tar") == "masks/0.tar"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3:// without s3fs: the command that installs it; an unknown scheme: the known ones."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match="need a package") as error:
        open_shard("s3://bucket/0.tar")
    assert error.value.hint == "Install it with: pip install s3fs"
    with pytest.raises(ConfigError, match="no way to read foo://"):
        open_shard("foo://bucket/0.tar")


def test_a_file_is_stored_whole(tmp_path: Path) -> None:
    """To a folder that is made for it, and to a URL; a file in the way is one sentence."""
    source = tmp_path / "source"
    source.write_bytes(b"masks")
    store_file(source, str(tmp_path / "new/folder/0.tar"))
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["0.tar"]
    store_file(source, "memory://masks/0.tar")
    with open_shard("memory://masks/0.tar") as stream:
        assert stream.read() == b"masks"
    with pytest.raises(DataError, match="Cannot write") as error:
        store_file(source, str(source / "0.tar"))
    assert "same command" in error.value.hint
