"""What tests of several folders need: small checkpoints, the real data, a browser."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos, at `$SSEG_DATA` or beside the repository; skips without it."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSEG_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SSEG_DATA")
    return folder


@pytest.fixture(autouse=True)
def _cache_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the text embeddings of the user's own cache."""
    monkeypatch.setenv("SSEG_CACHE", str(tmp_path_factory.mktemp("cache")))


@dataclass
class Served:
    """A file of the local server, and what is wrong with how it comes.

    Attributes:
        body: its bytes.
        kind: its content type.
        drops: after how many bytes the next answers break off.
        statuses: of the next answers, in the place of the file.
        retry_after: seconds that these ask to wait.
        ranges: how a range is answered: as asked for, not at all, or wrongly.
        tag: its ETag.
        length: that is announced; None for the true one.
        location: where it redirects to.
    """

    body: bytes = b""
    kind: str = "application/octet-stream"
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    ranges: str = "right"
    tag: str | None = '"1"'
    length: int | None = None
    location: str | None = None


class FileServer:
    """Files by path, served on this machine.

    Attributes:
        files: what is there.
        asked: path and range of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str | None]] = []
        handler = type("Handler", (_FileHandler,), {"site": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, path: str, body: bytes = b"", **options: Any) -> str:
        """Serve a file; return its URL."""
        self.files[path] = Served(body, **options)
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def ranges(self, path: str) -> list[str | None]:
        """Return the ranges that were asked for of a file."""
        return [asked for of, asked in self.asked if of == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _FileHandler(http.server.BaseHTTPRequestHandler):
    site: FileServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = self.headers.get("Range")
        self.site.asked.append((path, asked))
        file = self.site.files.get(path)
        if file is None:
            self.send_error(404)
            return
        if file.location is not None or file.statuses:
            self.send_response(302 if file.location else file.statuses.pop(0))
            if file.location:
                self.send_header("Location", file.location)
            if file.retry_after is not None:
                self.send_header("Retry-After", file.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(file, asked)

    def _send(self, file: Served, asked: str | None) -> None:
        body, start = file.body, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", asked or "")
        same = self.headers.get("If-Range", file.tag) == file.tag
        if wanted and same and file.ranges != "ignored":
            start = int(wanted[1])
            if start >= len(body):
                self.send_error(416)
                return
            shown = start if file.ranges == "right" else start + 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        self.send_header("Content-Type", file.kind)
        self.send_header("Content-Length", str(len(rest) if file.length is None else file.length))
        if file.tag:
            self.send_header("ETag", file.tag)
        self.end_headers()
        with suppress(OSError):  # the client has gone
            self.wfile.write(rest[: file.drops.pop(0)] if file.drops else rest)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    """A server of files on this machine, which may misbehave."""
    server = FileServer()
    yield server
    server.close()


@pytest.fixture(scope="module")  # while it is open, asyncio of other tests cannot run
def browser() -> Iterator[Any]:
    """Return a headless Chromium, or skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(_BROWSERS)} is on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def make_checkpoint() -> Callable[[ArtifactStore], Artifact]:
    """Publishes a checkpoint with the weights of an untrained model of 32-pixel crops."""
    import torch

    from sseg_core.checkpoint import WEIGHTS, save_weights
    from sseg_core.config import (
        BackboneConfig,
        DecoderConfig,
        LoaderConfig,
        ModelConfig,
        TextConfig,
        TrainConfig,
    )
    from sseg_core.models.build import build_model

    config = TrainConfig(
        model=ModelConfig(
            backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)),
            decoder=DecoderConfig(
                num_queries=5, hidden_dim=32, layers=1, heads=2, feedforward_dim=32,
                mask_feature="pooled",
            ),
            text=TextConfig(layers=1, width=32, heads=2, context_length=8),
            embed_dim=16,
        ),
        loader=LoaderConfig(load_size=32, crop_size=32),
    )  # fmt: skip

    def make(store: ArtifactStore) -> Artifact:
        torch.manual_seed(0)
        model = build_model(config.model)
        with store.draft("checkpoint", "random", config.model_dump(mode="json")) as draft:
            save_weights(model, draft.path / WEIGHTS)
            return draft.publish({"steps": 0})

    return make


@pytest.fixture
def make_student() -> Callable[..., Artifact]:
    """Publishes a checkpoint with the weights of an untrained student of some classes."""
    import torch

    from sseg_core.checkpoint import WEIGHTS, save_weights
    from sseg_core.config import BackboneConfig, CropConfig, StudentConfig, UperNetConfig
    from sseg_core.models.student import build_student

    def make(
        store: ArtifactStore,
        names: Sequence[str],
        *,
        background: bool,
        name: str = "plus",
        backbone: dict[str, Any] | None = None,
        stats: dict[str, Any] | None = None,
    ) -> Artifact:
        config = StudentConfig(
            model=UperNetConfig(
                backbone=BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)),
                channels=8,
                auxiliary=False,
                class_names=tuple(names),
                has_background=background,
            ),
            loader=CropConfig(short_side=64),
        )
        torch.manual_seed(0)
        student = build_student(config.model)
        start = config.model.backbone.model_copy(update=backbone or {})
        model = config.model.model_copy(update={"backbone": start})
        values = config.model_copy(update={"model": model}).model_dump(mode="json")
        with store.draft("checkpoint", name, values) as draft:
            save_weights(student, draft.path / WEIGHTS)
            return draft.publish({"steps": 0, **(stats or {})})

    return make
