"""URL lists: fetched, shrunk, packed, counted, resumed and asked for again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig, FetchConfig
from sseg_core.data.fetch.outcomes import Outcome, read_outcomes
from sseg_core.data.images import decode_image
from sseg_core.data.shards import read_shard
from sseg_core.data.sources import PAIRS, RemoteFile
from sseg_core.errors import ArtifactError, DataError
from sseg_core.stages import download, pack_urls


def _photo(number: int) -> bytes:
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    stream = io.BytesIO()
    small.resize((160, 120)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _bad_body(name: str) -> bytes:
    """Return what a server of strangers may call a JPEG."""
    stream = io.BytesIO()
    if name == "page":
        return b"<!doctype html><script>alert(1)</script>" * 50
    if name == "cut":
        return _photo(1)[:-500]
    if name == "pixels":  # 50,000 x 50,000 in 90 kB
        row = zlib.compress(bytes(6251))
        header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", row * 5000), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    if name == "packed":
        return gzip.compress(bytes(10**7))
    if name == "program":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    if name == "tiny":
        Image.new("RGB", (1, 1)).save(stream, "JPEG")
    if name == "strip":
        Image.new("L", (70_000, 2)).save(stream, "PNG")
    if name == "png":
        Image.new("RGBA", (90, 40), (9, 9, 9, 0)).save(stream, "PNG")
    return stream.getvalue()


class Site:
    """A web site whose photos /N.jpg can be taken down, delayed and counted."""

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.asked: Counter[int] = Counter()
        self.agents: set[str] = set()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["number"])
        self.asked[number] += 1
        self.agents.add(request.headers["User-Agent"])
        host = request.host
        self.now[host] += 1
        self.most[host] = max(self.most[host], self.now[host])
        await asyncio.sleep(0.005)
        self.now[host] -= 1
        if number in self.down:
            raise web.HTTPNotFound
        return web.Response(body=_photo(number), content_type="image/jpeg")

    async def _bad(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == "endless":
            response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                for _ in range(2000):
                    await response.write(bytes(10**6))  # 2 GB
            return response
        return web.Response(body=_bad_body(name), content_type="image/jpeg")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/{number:\\d+}.jpg", self._answer)
        app.router.add_get("/bad/{name:.*}", self._bad)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "0.0.0.0", 0)  # all loopback addresses
        self._loop.run_until_complete(site.start())
        (self.port,) = {server[1] for server in runner.addresses}
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    def url(self, number: int) -> str:
        return f"http://127.0.0.{1 + number % 3}:{self.port}/{number}.jpg"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def _config(folder: Path, site: Site, count: int = 20, **options: Any) -> DownloadConfig:
    lines = [f"{site.url(number)}\tphoto {number}\n" for number in range(count)]
    (folder / "list.tsv").write_text("url\tcaption\n" + "".join(lines))
    values = {"shard_size": 6, "max_side": 64, "min_success": 0.2, **options}
    fetch = FetchConfig(private_addresses=True, processes=2, attempts=1, timeout_s=5)
    values.setdefault("fetch", fetch)
    return DownloadConfig(source=f"urls:{folder / 'list.tsv'}", **values)


def _samples(artifact: Artifact) -> dict[str, Any]:
    return {s.key: s for path in artifact.files(".tar") for s in read_shard(path)}


def _outcomes(artifact: Artifact) -> list[Outcome]:
    return [o for path in sorted(artifact.files(".gz")) for o in read_outcomes(path)]


def test_a_list_becomes_shards(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """In its order, each image under the key of its place; failures are counted by reason."""
    site.down = {3, 17}
    artifact = download.run(_config(tmp_path, site), store)
    assert artifact.reference == "list:v1"
    samples = _samples(artifact)
    assert list(samples) == [f"{n:09d}" for n in range(20) if n not in site.down]
    for key, sample in samples.items():
        assert sample.captions == (f"photo {int(key)}",)
        pixels = decode_image(sample.image, max_pixels=10**6)
        assert pixels.shape == (48, 64, 3)
        photo = Image.open(io.BytesIO(_photo(int(key)))).resize((64, 48))
        assert np.abs(pixels.astype(int) - np.asarray(photo, int)).mean() < 4
    stats = artifact.manifest.stats
    assert (stats["images"], stats["captions"], stats["shards"]) == (18, 18, 4)
    assert stats["skipped"] == {"http 404": 2}
    assert stats["examples"] == {"http 404": [site.url(3), site.url(17)]}
    assert stats["duplicates"] == {"exact": 0, "near": 0}
    outcomes = _outcomes(artifact)
    assert [o.url for o in outcomes] == [site.url(n) for n in range(20)]
    assert {int(o.key) for o in outcomes if o.outcome == "http 404"} == {3, 17}
    assert site.agents == {"Mozilla/5.0 (compatible; sseg)"}
    assert set(site.asked.values()) == {1}


def test_the_shards_do_not_depend_on_the_number_of_processes(
    site: Site, store: ArtifactStore, tmp_path: Path
) -> None:
    """Nor on the order in which servers answer; such options do not make it another command."""
    first = download.run(_config(tmp_path, site), store)
    fetch = FetchConfig(private_addresses=True, processes=1, connections=1, per_host=1)
    other = download.run(_config(tmp_path, site, fetch=fetch), ArtifactStore(tmp_path / "other"))
    assert other.manifest.files == first.manifest.files
    assert other.manifest.stats == first.manifest.stats


def test_an_interrupted_run_goes_on(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """Finished shards are not fetched again, also with other limits of speed."""

    class Stops:
        def start(self, task: str, total: int | None, unit: str) -> None:
            pass

        def advance(self, count: int = 1, **fields: str) -> None:
            if len(list(store.root.glob("pairs/list/.work-*/done/*.tar.json"))) >= 2:
                raise KeyboardInterrupt

        def message(self, text: str) -> None:
            pass

    config = _config(tmp_path, site, count=60)
    with pytest.raises(KeyboardInterrupt):
        download.run(config, store, progress=Stops())
    site.asked.clear()
    faster = config.fetch.model_copy(update={"connections": 64, "attempts": 2})
    artifact = download.run(config.model_copy(update={"fetch": faster}), store)
    assert 0 < site.asked.total() <= 48
    whole = download.run(config, ArtifactStore(tmp_path / "other"))
    assert artifact.manifest.files == whole.manifest.files


def test_failures_are_asked_for_again(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """Only these; what comes takes its place, and a new version has all that there is."""
    site.down = {0, 1, 7}
    config = _config(tmp_path, site)
    first = download.run(config, store)
    kept = first.files(".tar")[2].read_bytes()
    site.down = {7}
    site.asked.clear()
    second = download.run(config, store, retry_failed=True)
    assert dict(site.asked) == {0: 1, 1: 1, 7: 1}
    assert second.reference == "list:v2"
    assert second.manifest.stats["skipped"] == {"http 404": 1}
    assert second.files(".tar")[2].read_bytes() == kept
    site.asked.clear()
    fresh = download.run(config, ArtifactStore(tmp_path / "other"))
    assert second.manifest.files == fresh.manifest.files
    assert len(_samples(first)) == 17  # the first version stays as it is


def test_too_few_images_are_an_error_that_keeps_them(
    site: Site, store: ArtifactStore, tmp_path: Path
) -> None:
    """A retry or a lower least share goes on from there."""
    site.down = set(range(12))
    config = _config(tmp_path, site, min_success=0.5)
    with pytest.raises(DataError, match=r"of 20 images cannot be used.*http 404") as caught:
        download.run(config, store)
    assert "--retry-failed" in caught.value.hint
    assert store.artifacts("pairs") == []
    site.down = set()
    artifact = download.run(config, store, retry_failed=True)
    assert artifact.manifest.stats["images"] == 20
    assert max(site.asked.values()) <= 2
    with pytest.raises(ArtifactError, match="no earlier run"):
        download.run(config, store, name="other", retry_failed=True)


def test_parts_of_a_list_make_the_whole(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """With tables of outcomes and duplicates over all."""
    site.down = {4}
    config = _config(tmp_path, site)
    for number in (1, 2):
        download.run(config.model_copy(update={"part": f"{number}/2"}), store)
    assert set(site.asked.values()) == {1}
    merged = download.run(DownloadConfig(source="parts:list"), store)
    alone = download.run(config, ArtifactStore(tmp_path / "alone"))
    assert merged.manifest.files == alone.manifest.files
    assert merged.manifest.stats == alone.manifest.stats


def test_a_host_is_asked_for_so_many_at_once(
    site: Site, store: ArtifactStore, tmp_path: Path
) -> None:
    """In all processes together."""
    fetch = FetchConfig(private_addresses=True, processes=2, per_host=4)
    download.run(_config(tmp_path, site, count=90, fetch=fetch), store)
    assert len(site.most) == 3
    assert max(site.most.values()) <= 4
    assert max(site.most.values()) > 1


def test_private_addresses_are_refused(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """Unless the user says otherwise; nothing is asked of them."""
    config = _config(tmp_path, site, fetch=FetchConfig(processes=1))
    with pytest.raises(DataError, match=r"of 20 images cannot be used.*private address"):
        download.run(config, store)
    assert not site.asked


def test_duplicates_are_counted(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """Those of the list itself, too."""
    config = _config(tmp_path, site)
    file = tmp_path / "list.tsv"
    file.write_text(file.read_text() + f"{site.url(4)}\tagain\n{site.url(5)}\tand again\n")
    artifact = download.run(config, store)
    assert artifact.manifest.stats["images"] == 22
    assert artifact.manifest.stats["duplicates"] == {"exact": 2, "near": 0}


BAD = {
    "page": "unsupported",
    "cut": "truncated",
    "pixels": "too large",
    "packed": "unsupported",
    "program": "unsupported",
    "endless": "too large",
    "nothing": "empty",
    "tiny": "fetched",
    "png": "fetched",
    "strip": "too large",
}


def test_what_strangers_call_a_jpeg(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """Each costs only itself, and is counted by what is wrong with it; nothing is believed."""
    names = [*BAD, "\x1b[2Jred", "../../../etc/passwd"]
    base = site.url(0).rsplit("/", 1)[0]
    config = _config(tmp_path, site, min_success=0.0, count=1)
    (tmp_path / "list.tsv").write_text(
        "url\tcaption\n" + "".join(f"{base}/bad/{name}\twords of {name}\n" for name in names)
    )
    config = config.model_copy(
        update={
            "max_side": None,
            "fetch": config.fetch.model_copy(update={"max_bytes": 5_000_000}),
        }
    )
    artifact = download.run(config, store)
    found = dict(zip(names, (outcome.outcome for outcome in _outcomes(artifact)), strict=True))
    assert {name: found[name] for name in BAD} == BAD
    assert set(_samples(artifact)) == {"000000007", "000000008"}
    assert not any(
        "\x1b" in name for names in artifact.manifest.stats["examples"].values() for name in names
    )
    made = {path.name for path in artifact.path.rglob("*")}
    assert made == {*artifact.manifest.files, "manifest.json"}


@pytest.mark.slow
def test_a_kill_loses_what_was_being_written_at_most(
    site: Site, store: ArtifactStore, tmp_path: Path
) -> None:
    """The workers end with their parent; a rerun makes the rest, to the same bytes."""
    config = _config(tmp_path, site, count=300)
    command = [
        sys.executable, "-m", "sseg_cli", "--store", str(store.root), "download", config.source,
        "--set", "fetch.private_addresses=true", "--set", "fetch.processes=2", "--set",
        "shard_size=6", "--set", "max_side=64", "--min-success", "0.2", "--set", "fetch.attempts=1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(done := list(store.root.glob("pairs/list/.work-*/done/*.tar.json"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    site.asked.clear()
    artifact = download.run(config, store)
    assert site.asked.total() <= 300 - 6 * len(done)
    whole = download.run(config, ArtifactStore(tmp_path / "other"))
    assert artifact.manifest.files == whole.manifest.files
    while _of_session(process.pid):
        assert time.monotonic() < deadline + 30
        time.sleep(0.1)


def _of_session(session: int) -> list[str]:
    """Return the processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(stat.parent.name)
    return found


def test_a_full_disk_is_one_sentence(site: Site, store: ArtifactStore, tmp_path: Path) -> None:
    """From a worker process; what is finished stays."""
    config = _config(tmp_path, site, count=40, shard_size=20)
    own, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))  # workers inherit it
    try:
        with pytest.raises(DataError, match=r"Cannot write .*: file too large"):
            download.run(config, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (own, most))
        signal.signal(signal.SIGXFSZ, ignored)
    assert download.run(config, store).manifest.stats["images"] == 40


def test_redcaps_is_a_list_of_urls(
    site: Site,
    store: ArtifactStore,
    tmp_path: Path,
    file_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its annotations are fetched once, and kept for other parts; the first so many are taken."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for year, numbers in ((2018, range(5, 9)), (2017, range(5))):
            records = [{"url": site.url(n), "caption": f"post {n}", "author": "x"} for n in numbers]
            archive.writestr(
                f"annotations/cats_{year}.json", json.dumps({"info": {}, "annotations": records})
            )
    url = file_server.add("/redcaps_v1.0_annotations.zip", stream.getvalue())
    known = next(source for source in PAIRS if source.name == "redcaps")
    assert known.annotations is not None
    source = replace(known, annotations=RemoteFile(f"{url}?dl=1"), limit=7)
    monkeypatch.setattr(pack_urls, "PAIRS", (source,))
    options = _config(tmp_path, site).model_copy(update={"source": "redcaps"})
    parts = [
        download.run(options.model_copy(update={"part": f"{number}/2"}), store) for number in (1, 2)
    ]
    assert len(file_server.asked) == 1
    captions = [sample.captions[0] for part in parts for sample in _samples(part).values()]
    assert captions == [f"post {number}" for number in range(7)]
    assert parts[0].manifest.stats["licence"] == known.licence
    assert parts[0].manifest.stats["terms"] == "https://redcaps.xyz"
