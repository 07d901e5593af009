"""`sseg download urls:FILE` beside img2dataset, on the same list, from a server on this machine.

    python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset 'numpy<2' 'pyarrow<17'
    python tests/benchmarks/download_urls.py PHOTOS --img2dataset /tmp/i2d/bin/img2dataset

img2dataset needs an environment of its own: its versions of NumPy and albumentations do not go
with ours. Both fetch the photos under 50 addresses of this machine, every tenth URL is gone, and
shrink them to a short side of 256 pixels, JPEG quality 90, 500 to a shard, in turn, three times;
medians count, from the start of the program to its end. img2dataset has the number of processes of
the machine's cores and the number of threads that is fastest here; ours has its defaults.

The second table is of memory: the peak of all processes together (proportional set size) over
10,000 and over 100,000 URLs of small images.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

REPEATS = 3
GONE = 10  # every tenth URL
HOSTS = 50
THREADS = (16, 32, 64)
OURS = [
    "--set", "fetch.private_addresses=true", "--set", "short_side=256", "--set", "max_side=none",
    "--set", "jpeg_quality=90",
]  # fmt: skip
THEIRS = [
    "--input_format", "tsv", "--url_col", "url", "--caption_col", "caption", "--output_format",
    "webdataset", "--image_size", "256", "--resize_mode", "keep_ratio", "--resize_only_if_bigger",
    "True", "--encode_quality", "90", "--number_sample_per_shard", "500",
]  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--img2dataset", type=Path)
    parser.add_argument("--count", type=int, default=12_000)
    options = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(options.photos.rglob("*.jpg"))]
    print(f"{len(photos)} photos of {sum(map(len, photos)) / len(photos) / 1000:.0f} kB")
    with tempfile.TemporaryDirectory() as folder:
        _compare(photos, options.count, options.img2dataset, Path(folder))
        _memory(Path(folder))


def _compare(photos: list[bytes], count: int, theirs: Path | None, folder: Path) -> None:
    sides = {"sseg download": _ours}
    if theirs is not None:
        for threads in THREADS:
            sides[f"img2dataset, {threads} threads"] = _img2dataset(theirs, threads)
    with _Server(photos) as server:
        urls = server.write_list(folder / "list.tsv", count)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(REPEATS):
            for name, side in sides.items():
                out = folder / "out"
                begin = time.perf_counter()
                side(urls, out)
                seconds[name].append(time.perf_counter() - begin)
                made = _images_in(out)
                assert made == count * (GONE - 1) // GONE, f"{name} made {made} images"
                shutil.rmtree(out)
                print(f"  {name}: {seconds[name][-1]:.1f} s", flush=True)
    images = count * (GONE - 1) // GONE
    print(f"\n{'':28} images/s   seconds (median of {REPEATS})")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:28} {images / median:8.0f}   {median:7.1f}")


def _images_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.tar"):
        with tarfile.open(path) as tar:
            total += sum(name.endswith(".jpg") for name in tar.getnames())
    return total


def _ours(urls: Path, out: Path) -> None:
    assert _start_ours(urls, out).wait() == 0, "sseg download failed"


def _start_ours(urls: Path, out: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "sseg_cli", "--store", str(out), "download", f"urls:{urls}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*program, *OURS], **quiet)


def _img2dataset(program: Path, threads: int) -> Callable[[Path, Path], None]:
    def run(urls: Path, out: Path) -> None:
        command = [
            str(program), "--url_list", str(urls), "--output_folder", str(out),
            "--processes_count", str(os.cpu_count()), "--thread_count", str(threads), *THEIRS,
        ]  # fmt: skip
        environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
        subprocess.run(command, env=environment, capture_output=True, check=True)

    return run


def _memory(folder: Path) -> None:
    small = []
    for number in range(200):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((128, 96)).save(stream, "JPEG")
        small.append(stream.getvalue())
    print("\nURLs       peak MB   images/s")
    with _Server(small) as server:
        for count in (10_000, 100_000):
            urls = server.write_list(folder / "list.tsv", count)
            out = folder / "out"
            begin = time.perf_counter()
            process = _start_ours(urls, out)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, _pss_mb(process.pid))
                time.sleep(0.5)
            assert process.returncode == 0, "sseg download failed"
            rate = _images_in(out) / (time.perf_counter() - begin)
            shutil.rmtree(out)
            print(f"{count:7,} {peak:10.0f} {rate:10.0f}", flush=True)


def _pss_mb(pid: int) -> float:
    """Return the memory of a process and its children; what they share counts once."""
    total = 0.0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (OSError, StopIteration):
        return total
    return total + sum(_pss_mb(int(child)) for child in children)


class _Server:
    """Serves images from memory, in a process of its own."""

    def __init__(self, images: list[bytes]) -> None:
        context = multiprocessing.get_context("fork")
        self._own, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(images, other), daemon=True)

    def __enter__(self) -> _Server:
        self._process.start()
        self._port = self._own.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def write_list(self, path: Path, count: int) -> Path:
        lines = (
            f"http://127.0.0.{1 + number % HOSTS}:{self._port}/{number}.jpg\tphoto {number}\n"
            for number in range(count)
        )
        path.write_text("url\tcaption\n" + "".join(lines))
        return path


def _serve(images: list[bytes], link: Connection) -> None:
    async def answer(request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        if number % GONE == GONE - 1:
            raise web.HTTPNotFound
        return web.Response(body=images[number % len(images)], content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{number:\\d+}.jpg", answer)
    listening = socket.create_server(("0.0.0.0", 0), backlog=1024)
    link.send(listening.getsockname()[1])
    web.run_app(app, sock=listening, access_log=None, print=None)


if __name__ == "__main__":
    main()
