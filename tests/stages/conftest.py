"""A stand-in of the Hugging Face hub on this machine, for the stages that fetch from it."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Repositories by name, and what is wrong with them.

    Attributes:
        files: bytes by path, of each repository; `datasets/ORG/NAME` for data sets.
        drops: for each path, after how many bytes the next answers break off.
        wrong: for each path, how many more answers have a wrong byte.
        busy: for each path, how many more requests are turned away.
        ranges: how ranges are answered: as asked for, with all, or with other bytes.
        pace: bytes per second; None for no limit.
        gated: repositories that are open only to those with a token.
        requests: method, path and range of what was asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.drops: dict[str, list[int]] = defaultdict(list)
        self.wrong: dict[str, int] = defaultdict(int)
        self.busy: dict[str, int] = defaultdict(int)
        self.ranges: Literal["good", "ignored", "wrong"] = "good"
        self.pace: float | None = None
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def fetched(self, path: str) -> list[str | None]:
        """Return the ranges of the GET requests for a file."""
        return [r for method, asked, r in self.requests if method == "GET" and asked == path]

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process that is to use this hub and an empty cache."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TORCH_"))}
        homes = {"HF_HOME": str(home), "TORCH_HOME": str(home)}
        return {**kept, **homes, "HF_ENDPOINT": self.address, "no_proxy": "127.0.0.1"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if not path.startswith("api/"):
            self._resolve()
            return
        self.hub.requests.append(("GET", path, None))
        parts = path.removeprefix("api/").split("/")
        repository = "/".join(parts[:3])
        if not self._is_open(repository):
            return
        files = self.hub.files[repository]
        if parts[3:4] == ["tree"]:
            answer: Any = [_entry(name, content) for name, content in files.items()]
        elif parts[3:] not in ([], ["revision", "main"], ["revision", COMMIT]):
            self._refuse(404, "RevisionNotFound")
            return
        else:
            siblings = [{"rfilename": name} for name in files]
            card = {"license": "cc-by-4.0"}
            answer = {"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": siblings,
                      "cardData": card}  # fmt: skip
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self) -> None:
        hub, asked = self.hub, unquote(urlsplit(self.path).path).strip("/")
        repository, _, rest = asked.partition("/resolve/")
        revision, _, name = rest.partition("/")
        byte_range = self.headers["Range"]
        hub.requests.append((self.command, name, byte_range))
        if not self._is_open(repository):
            return
        if revision not in {"main", COMMIT}:
            self._refuse(404, "RevisionNotFound")
            return
        content = hub.files[repository].get(name)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        if self.command == "GET" and hub.busy[name]:
            hub.busy[name] -= 1
            self._refuse(503, "")
            return
        if hub.ranges == "ignored":
            byte_range = None
        start = int(byte_range.removeprefix("bytes=").partition("-")[0]) if byte_range else 0
        start = start // 2 if hub.ranges == "wrong" else start
        self.send_response(206 if byte_range else 200)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(content) - start))
        if byte_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._send(name, content, start)

    def _send(self, name: str, content: bytes, start: int) -> None:
        hub = self.hub
        if hub.wrong[name]:
            hub.wrong[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        end = start + hub.drops[name].pop(0) if hub.drops[name] else len(content)
        step = len(content) if hub.pace is None else max(1, round(hub.pace / 20))
        for place in range(start, min(end, len(content)), step):
            try:
                self.wfile.write(content[place : min(place + step, end)])
            except OSError:
                break  # the client has gone
            if hub.pace is not None:
                time.sleep(0.05)
        if end < len(content):
            self.close_connection = True

    def _is_open(self, repository: str) -> bool:
        if repository not in self.hub.files:
            self._refuse(401, "RepoNotFound")
        elif repository in self.hub.gated and not self.headers["Authorization"]:
            self._refuse(401, "GatedRepo")
        else:
            return True
        return False

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
    if name.endswith((".tar", ".tar.gz")):  # as large files are
        entry["lfs"] = {"oid": _etag(content), "size": len(content), "pointerSize": 130}
    return entry


@pytest.fixture
def reach_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], Path]:
    """Points the hub's client of this process to an address and an empty cache, or to no hub."""

    def reach(address: str | None) -> Path:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", address is None)
        if address is not None:
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return tmp_path / "hub"

    return reach


@pytest.fixture
def hub(reach_hub: Callable[[str | None], Path]) -> Iterator[LocalHub]:
    """A hub on this machine, which this process uses with an empty cache."""
    hub = LocalHub()
    reach_hub(hub.address)
    yield hub
    hub.close()
