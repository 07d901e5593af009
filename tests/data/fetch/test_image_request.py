"""One image from a server that means no good."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web

from sseg_core.config import FetchConfig
from sseg_core.data.fetch.hosts import CarefulResolver
from sseg_core.data.fetch.image_request import FetchError, ImageRequests

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BODY = b"\xff\xd8\xff" + bytes(range(256)) * 40


def _config(**options: Any) -> FetchConfig:
    values = {"private_addresses": True, "attempts": 1, "timeout_s": 2, "max_bytes": 100_000}
    return FetchConfig(**{**values, **options})


def _answer(head: str, body: bytes = b"", *, stall: bool = False) -> Handler:
    """Return a server that sends just this to everyone, and closes or goes silent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            await writer.drain()
            if stall:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return handle


def _fetch(handler: Handler, path: str = "/a.jpg", **options: Any) -> bytes | str:
    """Return what comes of asking such a server once, or the reason why nothing does."""

    async def run() -> bytes:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        requests = ImageRequests.open(_config(**options), 1)
        try:
            async with requests.session:
                return await requests.fetch(f"http://127.0.0.1:{port}{path}")
        finally:
            server.close()

    try:
        return asyncio.run(asyncio.wait_for(run(), 20))
    except FetchError as error:
        return error.reason


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        ("HTTP/1.1 200 OK\nContent-Length: 10243", BODY, BODY),
        ("HTTP/1.0 200 OK", BODY, BODY),  # as long as the connection lasts
        ("HTTP/1.1 200 OK\nContent-Length: 99999", BODY, "truncated"),
        ("HTTP/1.1 200 OK\nContent-Length: 2000000000", BODY, "too large"),
        ("HTTP/1.0 200 OK", bytes(200_000), "too large"),
        ("HTTP/1.1 200 OK\nContent-Length: x", BODY, "connection lost"),
        ("HTTP/1.1 206 Part\nContent-Range: bytes 5-9/10\nContent-Length: 5", b"12345", "http 206"),
        ("HTTP/1.1 404 No\nContent-Length: 0", b"", "http 404"),
        ("HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Length: 4", b"<ht>", "unsupported"),
        ("HTTP/1.1 200 OK\nX-Robots-Tag: noai\nContent-Length: 4", b"1234", "opted out"),
        ("HTTP/1.1 302 Go\nLocation: file:///etc/passwd\nContent-Length: 0", b"", "bad URL"),
        ("HTTP/1.1 302 Go\nLocation: gopher://x/\nContent-Length: 0", b"", "bad URL"),
        ("HTTP/1.1 302 Go\nLocation: http://[::1\nContent-Length: 0", b"", "bad URL"),
        ("HTTP/1.1 302 Go\nContent-Length: 0", b"", "bad URL"),
        ("HTTP/1.1 302 Go\nLocation: http://xn--a.example/\nContent-Length: 0", b"", "bad URL"),
        ("HTTP/1.1 301 Loop\nLocation: /a.jpg\nContent-Length: 0", b"", "too many redirects"),
        ("nonsense", b"", "connection lost"),
        ("HTTP/1.1 200 OK\nX: " + "y" * 100_000, b"", "connection lost"),
    ],
)  # fmt: skip
def test_what_comes_of_an_answer(head: str, body: bytes, expected: bytes | str) -> None:
    """The body, or why not; nothing hangs and nothing is believed."""
    assert _fetch(_answer(head, body)) == expected


def test_what_comes_behind_the_body_is_not_taken() -> None:
    """Whether or not it arrives together with it."""
    answer = _fetch(_answer("HTTP/1.1 200 OK\nContent-Length: 100", BODY))
    assert answer in {BODY[:100], "connection lost"}


def test_a_packed_body_is_not_unpacked() -> None:
    """A bomb stays as small as it came; it is no image then."""
    bomb = gzip.compress(bytes(50_000_000))
    head = f"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: {len(bomb)}"
    assert _fetch(_answer(head, bomb)) == bomb


@pytest.mark.parametrize("head", ["", "HTTP/1.1 200 OK\nContent-Length: 99999"])
def test_a_server_that_goes_silent_is_left(head: str) -> None:
    """Before its answer or in the middle of it."""
    begin = time.monotonic()
    handler = _answer(head, BODY if head else b"", stall=True)
    assert _fetch(handler, timeout_s=0.5) in {"timeout", "connection lost"}
    assert time.monotonic() - begin < 5


def test_a_server_that_dribbles_is_left() -> None:
    """The time is that of the whole attempt, not between two bytes."""

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            writer.close()

    assert _fetch(dribble, timeout_s=0.6) == "timeout"


def _with_site(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    use: Callable[[str], Coroutine[Any, Any, Any]],
) -> Any:
    async def run() -> Any:
        app = web.Application()
        app.router.add_get("/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await use(f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_failures_that_may_pass_are_tried_again() -> None:
    """As often as asked, after the time that the server names; lasting ones are not."""
    asked: list[tuple[str, float]] = []

    async def flaky(request: web.Request) -> web.StreamResponse:
        asked.append((request.path, time.monotonic()))
        count = sum(path == request.path for path, _ in asked)
        if request.path == "/busy" and count < 3:
            raise web.HTTPTooManyRequests(headers={"Retry-After": "0.3" if count == 2 else "1"})
        if request.path == "/gone":
            raise web.HTTPGone
        if request.path == "/broken":
            raise web.HTTPBadGateway(headers={"Retry-After": "0"})
        return web.Response(body=BODY)

    async def use(site: str) -> list[bytes | str]:
        requests = ImageRequests.open(_config(attempts=3, timeout_s=5), 1)
        found: list[bytes | str] = []
        async with requests.session:
            for path in ("/busy", "/gone", "/broken"):
                try:
                    found.append(await requests.fetch(site + path))
                except FetchError as error:
                    found.append(error.reason)
        return found

    assert _with_site(flaky, use) == [BODY, "http 410", "http 502"]
    paths = [path for path, _ in asked]
    assert [paths.count(path) for path in ("/busy", "/gone", "/broken")] == [3, 1, 3]
    times = [moment for path, moment in asked if path == "/busy"]
    assert times[1] - times[0] > 0.9


def test_redirects_are_followed_and_checked_each_time() -> None:
    """Up to the limit, also to another host; never to a private address unless that is allowed."""
    hops = 3

    async def chain(request: web.Request) -> web.StreamResponse:
        left = int(request.path.strip("/"))
        if left:
            raise web.HTTPFound(f"/{left - 1}")
        return web.Response(body=BODY)

    async def use(site: str) -> list[bytes | str]:
        found: list[bytes | str] = []
        for limit in (hops, hops - 1):
            requests = ImageRequests.open(_config(max_redirects=limit), 1)
            async with requests.session:
                try:
                    found.append(await requests.fetch(f"{site}/{hops}"))
                except FetchError as error:
                    found.append(error.reason)
        return found

    assert _with_site(chain, use) == [BODY, "too many redirects"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/a.jpg", "bad URL"),
        ("file:///etc/passwd", "bad URL"),
        ("http://", "bad URL"),
        ("http://[", "bad URL"),
        ("no url", "bad URL"),
        ("http://exa mple/\x00", "bad URL, or host not found"),
        ("http://a.b:99999/", "bad URL"),
        ("http://127.0.0.1/", "private address"),
        ("http://[::ffff:169.254.169.254]/latest", "private address"),
        ("http://2130706433/", "private address, or bad URL to aiohttp"),
        ("http://127.1/", "private address, or bad URL to aiohttp"),
        ("http://localhost:9/", "private address"),
        ("http://xn--0.example/a.jpg", "bad URL"),
        ("http://xn--a/", "bad URL"),
        ("http://]127.0.0.1[a]user:pw@", "bad URL"),
        ("http://[64:ff9b:1::7f00:1]/", "private address"),
        ("http://" + "x" * 300 + ".example/", "bad URL"),
    ],
)
def test_urls_that_must_not_be_asked(url: str, reason: str) -> None:
    """Other schemes, nonsense, and this machine in all its names."""

    async def run() -> str:
        requests = ImageRequests.open(_config(private_addresses=False), 1)
        async with requests.session:
            try:
                await requests.fetch(url)
            except FetchError as error:
                return error.reason
        raise AssertionError("it was asked")

    assert asyncio.run(run()) in reason


@pytest.mark.parametrize(
    "wait",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2029 00:00:00 +9999999999999999",
        "\u00b2",
        "-5",
        "soon",
    ],
)
def test_a_time_to_wait_that_is_none_is_not_waited_for(wait: str) -> None:
    """Whatever stands there, the answer counts as what it is."""

    async def busy(request: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": wait})

    async def use(site: str) -> str:
        requests = ImageRequests.open(_config(), 1)
        async with requests.session:
            try:
                await requests.fetch(f"{site}/a.jpg")
            except FetchError as error:
                return error.reason
        raise AssertionError("it came")

    assert _with_site(busy, use) == "http 503"


def test_a_redirect_to_a_private_address_is_not_followed() -> None:
    """From a host that may be asked; the address is that of cloud machines' own secrets."""

    async def leads(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data/")

    async def use(site: str) -> str:
        requests = ImageRequests.open(_config(private_addresses=False), 1)
        requests.session._connector._resolver = CarefulResolver(  # type: ignore[union-attr]
            private=False, trusted=frozenset({"localhost"})
        )
        async with requests.session:
            try:
                await requests.fetch(site.replace("127.0.0.1", "localhost") + "/a.jpg")
            except FetchError as error:
                return error.reason
        raise AssertionError("it came")

    assert _with_site(leads, use) == "private address"


def test_a_silent_host_is_left_after_a_while() -> None:
    """It costs a few timeouts, not one for each of its images; others are fetched meanwhile."""

    async def run() -> tuple[list[str], float]:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        requests = ImageRequests.open(_config(timeout_s=0.2, per_host=2), 1)

        async def fetch(number: int) -> str:
            try:
                await requests.fetch(f"http://127.0.0.1:{port}/{number}.jpg")
            except FetchError as error:
                return error.reason
            raise AssertionError("it came")

        begin = time.monotonic()
        async with requests.session:
            reasons = await asyncio.gather(*(fetch(number) for number in range(100)))
        server.close()
        return reasons, time.monotonic() - begin

    reasons, seconds = asyncio.run(run())
    assert 8 <= reasons.count("timeout") <= 10
    assert reasons.count("host silent") == 100 - reasons.count("timeout")
    assert seconds < 8


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for the hosts that are excepted from it."""
    seen: list[str] = []

    async def proxy(request: web.Request) -> web.StreamResponse:
        seen.append(str(request.url))
        return web.Response(body=BODY)

    async def use(site: str) -> bytes:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        for host in ("127.0.0.1", "localhost"):  # a name of a private address, as most have
            monkeypatch.setenv("http_proxy", site.replace("127.0.0.1", host))
            requests = ImageRequests.open(_config(private_addresses=False), 1)
            async with requests.session:
                await requests.fetch("http://photos.example/a.jpg")
        requests = ImageRequests.open(_config(), 1)
        async with requests.session:
            return await requests.fetch(f"{site}/direct.jpg")

    assert _with_site(proxy, use) == BODY
    assert [url.rsplit("/", 1)[1] for url in seen] == ["a.jpg", "a.jpg", "direct.jpg"]
    assert seen[:2] == ["http://photos.example/a.jpg"] * 2
