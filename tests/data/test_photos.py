"""Photos that users name: files, folders, globs, URLs and standard input."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sseg_core.data.images import ImageError
from sseg_core.data.photo_stream import PixelBudget, decoded_photos
from sseg_core.data.photos import Photo, list_photos
from sseg_core.errors import DataError

LIMIT = 100_000


def _png(value: int = 0, size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos in it, one in a subfolder, and a text."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "more/a.png"):
        (folder / name).write_bytes(_png())
    (folder / "notes.txt").write_text("no image")
    return folder


def _names(*inputs: Path | str) -> list[str]:
    return [photo.name for photo in list_photos(map(str, inputs))]


# --- what is named ------------------------------------------------------------------------------


def test_inputs_are_listed_once_each_in_their_order(photos: Path) -> None:
    """Files, folders without their subfolders, and globs; a repeated file counts once."""
    a, b, more = (str(photos / name) for name in ("a.JPG", "b.png", "more/a.png"))
    c = str(photos / "c[1].png")
    Path(c).write_bytes(_png())
    assert _names(b, photos) == [b, a, c]
    assert _names(photos / "*.png") == [b, c]
    assert _names(photos / "**" / "a.*") == [a, more]
    assert _names(c) == [c]
    assert _names(photos / "notes.txt") == [str(photos / "notes.txt")]
    url = "https://example.org/a.jpg?size=large"
    assert _names(b, url, a) == [b, url, a]


def test_stems_are_safe_and_differ(photos: Path) -> None:
    """Two files and a URL of one name; a URL without a name."""
    names = [
        str(photos / "a.JPG"), str(photos / "more/a.png"), "http://x.org/a.webp?b=/c",
        "http://x.org", "https://x.org/..%2f..%2fetc/passwd",
    ]  # fmt: skip
    stems = [photo.stem for photo in list_photos(names)]
    assert stems == ["a", "a-2", "a-3", "image", "passwd"]


@pytest.mark.parametrize("missing", ["nothing.png", "empty", "*.webp"])
def test_an_input_that_matches_nothing_is_an_error(photos: Path, missing: str) -> None:
    """A missing file, a folder without images and an idle glob are named before any work."""
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="There is no"):
        _names(photos, photos / missing)


@pytest.mark.parametrize("url", ["ftp://x.org/a.jpg", "file:///etc/passwd", "s3://bucket/a.jpg"])
def test_only_http_is_fetched(url: str) -> None:
    """Other kinds of URLs are refused in one sentence."""
    with pytest.raises(DataError, match="only http and https"):
        _names(url)


def test_a_folder_that_cannot_be_read_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user without permission (tests may run as one who has all)."""

    def refuse(_: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"photos cannot be read: permission denied\."):
        _names(photos)


def test_a_file_that_changes_has_another_version(photos: Path) -> None:
    """By size or time; a URL has none."""
    [photo] = list_photos([str(photos / "b.png")])
    before = photo.version()
    assert before == photo.version()
    (photos / "b.png").write_bytes(_png(size=(9, 9)))
    assert photo.version() != before
    assert Photo("http://x.org/a.png", "a", "url").version() is None


def test_standard_input_is_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless nothing is sent to it, as on a terminal."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_png(7))))
    [photo] = list_photos(["-"])
    assert (photo.name, photo.stem) == ("-", "stdin")
    assert photo.read(LIMIT, 1) == _png(7)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(DataError, match="no image on standard input"):
        list_photos(["-"])


# --- URLs ---------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers each path in its own, often bad, way."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/html.jpg":
            self._send(b"<html>not here</html>", "text/html")
        elif path == "/lying.jpg":
            self._send(b"<html>not here</html>", "image/jpeg")
        elif path == "/loop":
            self._redirect("/loop")
        elif path == "/away":
            self._redirect("/a.png")
        elif path == "/file":
            self._redirect("file:///etc/hostname")
        elif path == "/large.png":
            self._send(b"x" * (LIMIT + 1), "image/png")
        elif path == "/short.png":
            self._send(_png(3)[:-20], "image/png", length=len(_png(3)))
        elif path == "/slow.png":
            time.sleep(3)
        elif path == "/a.png":
            self._send(_png(3), "image/png")
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def _load(*urls: str) -> list[np.ndarray | ImageError]:
    stream = decoded_photos(
        list_photos(urls),
        lambda photo: photo.read(LIMIT, 0.5),
        max_pixels=1000,
        budget=PixelBudget(),
    )
    return [image for _, image in stream]


def test_an_image_is_fetched(server: str) -> None:
    """Through a redirect too."""
    direct, redirected = _load(f"{server}/a.png", f"{server}/away?x=1")
    assert isinstance(direct, np.ndarray)
    assert (direct == [3, 0, 0]).all()
    assert np.array_equal(direct, redirected)


@pytest.mark.parametrize(
    ("path", "reason", "problem"),
    [
        ("/html.jpg", "unsupported", "is no image: the server sent text/html"),
        ("/lying.jpg", "unsupported", "is no JPEG, PNG"),
        ("/gone.png", "unreachable", "the server answers 404"),
        ("/loop", "unreachable", "cannot be fetched"),
        ("/file", "unreachable", "file:///etc/hostname"),
        ("/large.png", "too large", "more than 0 megabytes"),
        ("/short.png", "truncated", "ends 20 bytes too early"),
        ("/slow.png", "unreachable", "does not answer in time"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence(
    server: str, path: str, reason: str, problem: str
) -> None:
    """With the address and the reason."""
    [error] = _load(server + path)
    assert isinstance(error, ImageError)
    assert error.reason == reason
    assert problem in error.message
    assert path in error.message


def test_a_server_that_is_not_there_is_named() -> None:
    """Port 9 of this machine answers no one."""
    [error] = _load("http://127.0.0.1:9/a.png")
    assert isinstance(error, ImageError)
    assert error.reason == "unreachable"


# --- reading ahead ------------------------------------------------------------------------------


def test_photos_come_in_order_whatever_takes_long(tmp_path: Path) -> None:
    """The first is read last; bad ones keep their place."""
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(_png(number) if number != 5 else b"no")
    photos = list_photos([str(tmp_path)])

    def read(photo: Photo) -> bytes:
        time.sleep(0.1 if photo.stem == "00" else 0)
        return photo.read(LIMIT, 1)

    budget = PixelBudget()
    seen = []
    for photo, image in decoded_photos(photos, read, max_pixels=1000, budget=budget, threads=4):
        if isinstance(image, ImageError):
            seen.append(-1)
            continue
        assert int(photo.stem) == image[0, 0, 0]
        seen.append(int(image[0, 0, 0]))
        budget.leave(image.shape[0] * image.shape[1])
    assert seen == [*range(5), -1, *range(6, 20)]


def test_no_more_pixels_than_the_budget_are_in_memory(tmp_path: Path) -> None:
    """A photo that is larger than all of it comes alone."""
    sizes = [(10, 10), (40, 40), (10, 10), (10, 10), (10, 10)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.png").write_bytes(_png(number, size))
    held = most = 0
    lock = threading.Lock()

    class Counted(PixelBudget):
        def enter(self, number: int, pixels: int) -> None:
            nonlocal held, most
            super().enter(number, pixels)
            with lock:
                held += pixels
                most = max(most, held)

        def leave(self, pixels: int) -> None:
            nonlocal held
            with lock:
                held -= pixels
            super().leave(pixels)

    budget = Counted(pixels=250)
    stream = decoded_photos(
        list_photos([str(tmp_path)]),
        lambda photo: photo.read(LIMIT, 1),
        max_pixels=10_000,
        budget=budget,
        threads=4,
    )
    for _, image in stream:
        assert isinstance(image, np.ndarray)
        time.sleep(0.02)
        budget.leave(image.shape[0] * image.shape[1])
    assert most == 1600
    assert held == 0


def test_a_reader_that_is_left_early_ends_its_threads(tmp_path: Path) -> None:
    """Photos that wait for room do not keep the process."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(_png(number, (10, 10)))
    stream = decoded_photos(
        list_photos([str(tmp_path)]),
        lambda photo: photo.read(LIMIT, 1),
        max_pixels=1000,
        budget=PixelBudget(pixels=150),
    )
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_photos_that_are_needed_together_get_in_together(tmp_path: Path) -> None:
    """Whatever their size: else a batch would wait for room that only it could give."""
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(_png(number, (10, 10)))
    budget = PixelBudget(photos=3, pixels=1)
    stream = decoded_photos(
        list_photos([str(tmp_path)]),
        lambda photo: photo.read(LIMIT, 1),
        max_pixels=1000,
        budget=budget,
    )
    seen = 0
    while batch := [image for _, (_, image) in zip(range(3), stream, strict=False)]:
        seen += len(batch)
        for _ in batch:
            budget.leave(100)
    assert seen == 8
