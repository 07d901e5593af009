"""One image from the web: what is asked for, followed, waited for, tried again and refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from sseg_core.config import FetchConfig
from sseg_core.data.fetch.hosts import CarefulResolver, Hosts, PrivateAddressError, is_private

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # another attempt may succeed
_BACK_OFF_S = 1.0
_LARGE_BYTES = 2**22
_LARGE_AT_ONCE = 8  # images of more bytes; the others wait, so that memory has a bound
_CHUNK_BYTES = 2**16
_OWN_VALUES = ("max-", "unavailable_after")  # directives of X-Robots-Tag with a colon of their own
_DNS_CACHE_S = 600
_KEEP_ALIVE_S = 5.0  # lists name thousands of hosts


class FetchError(Exception):
    """An image that cannot be had.

    Attributes:
        reason: why, in a few words to count by.
        passing: whether another attempt may succeed.
        wait_s: how long the server asks to wait before that.
    """

    def __init__(self, reason: str, *, passing: bool = False, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing
        self.wait_s = wait_s


@dataclass
class ImageRequests:
    """Fetches images; all of a process share one.

    Attributes:
        config: limits.
        session: of aiohttp, see `open_session`.
        hosts: turns at hosts.
        slots: requests of this process at once.
        large: likewise, of large images.
        proxies: of the environment, by scheme; these look hosts up themselves. Not by aiohttp's
            `trust_env`, which also sends the user's passwords (netrc) to the hosts of a list.
    """

    config: FetchConfig
    session: aiohttp.ClientSession
    hosts: Hosts
    slots: asyncio.Semaphore
    large: asyncio.Semaphore
    proxies: Mapping[str, str] = field(default_factory=getproxies)

    @classmethod
    def open(cls, config: FetchConfig, processes: int) -> ImageRequests:
        """Return the requests of one of several processes, which share the limits evenly."""
        return cls(
            config,
            open_session(config),
            Hosts(max(1, config.per_host // processes)),
            asyncio.Semaphore(max(1, config.connections // processes)),
            asyncio.Semaphore(_LARGE_AT_ONCE),
        )

    async def fetch(self, url: str) -> bytes:
        """Return the body behind a URL, after redirects and several attempts.

        Raises:
            FetchError: it cannot be had.
        """
        attempt = 1
        while True:
            try:
                return await self._attempt(url)
            except FetchError as error:
                if not error.passing or attempt == self.config.attempts:
                    raise
                wait = _BACK_OFF_S * 2 ** (attempt - 1) if error.wait_s is None else error.wait_s
            attempt += 1
            await asyncio.sleep(min(wait, self.config.timeout_s))

    async def _attempt(self, url: str) -> bytes:
        target = _parsed(url)
        for _ in range(self.config.max_redirects + 1):
            host = self._checked(target)
            async with self.hosts.turn(host), self.slots:
                if self.hosts.is_silent(host):
                    raise FetchError("host silent")
                answer = await self._ask(target, host)
            if isinstance(answer, bytes):
                return answer
            target = answer
        raise FetchError("too many redirects")

    def _checked(self, target: URL) -> str:
        """Return the host of a URL that may be asked."""
        if target.scheme not in {"http", "https"} or not target.host:
            raise FetchError("bad URL")
        if not self.config.private_addresses and is_private(target.host):
            raise FetchError("private address")
        return target.host

    async def _ask(self, target: URL, host: str) -> bytes | URL:
        """Return the body, or where the server says that it is."""
        try:
            async with (
                asyncio.timeout(self.config.timeout_s),
                self.session.get(
                    target, allow_redirects=False, proxy=self._proxy(target.scheme, host)
                ) as response,
            ):
                self.hosts.answered(host)
                if response.status in _REDIRECTS:
                    return _parsed(response.headers.get("Location", ""), target)
                self._check(response, host)
                return await self._body(response)
        except FetchError:
            raise
        except TimeoutError as error:
            self.hosts.timed_out(host)
            raise FetchError("timeout", passing=True) from error
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            raise _as_fetch_error(error) from error

    def _proxy(self, scheme: str, host: str) -> str | None:
        proxy = self.proxies.get(scheme)
        return None if proxy is None or proxy_bypass(host) else proxy

    def _check(self, response: aiohttp.ClientResponse, host: str) -> None:
        """Refuse what is no image, or is not meant for this use, before its body comes."""
        status = response.status
        if status != 200:
            wait = _retry_after(response.headers.get("Retry-After"))
            if wait is not None:
                self.hosts.pause(host, wait)
            raise FetchError(f"http {status}", passing=status in _PASSING, wait_s=wait)
        if opts_out(response.headers.getall("X-Robots-Tag", ()), self.config.refusals):
            raise FetchError("opted out")
        if response.content_type.startswith("text/"):
            raise FetchError("unsupported")
        if (response.content_length or 0) > self.config.max_bytes:
            raise FetchError("too large")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        is_large = False
        try:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > self.config.max_bytes:
                    raise FetchError("too large")
                if len(body) > _LARGE_BYTES and not is_large:
                    await self.large.acquire()
                    is_large = True
        finally:
            if is_large:
                self.large.release()
        return bytes(body)


def open_session(config: FetchConfig) -> aiohttp.ClientSession:
    """Return a session that bounds nothing itself: turns, slots and one timeout do.

    Bodies are taken as they come, without decompression, so that none grows on arrival.
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=CarefulResolver(private=config.private_addresses, trusted=_proxy_hosts()),
        ttl_dns_cache=_DNS_CACHE_S,
        keepalive_timeout=_KEEP_ALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={
            "User-Agent": config.user_agent,
            "Accept": "image/*,*/*;q=0.8",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


def opts_out(tags: Iterable[str], refusals: Iterable[str]) -> bool:
    """Tell whether X-Robots-Tag headers hold one of the words, for any program or this one."""
    words = {word.lower() for word in refusals}
    for tag in tags:
        agent = ""
        for directive in tag.lower().split(","):
            name, colon, rest = directive.partition(":")
            # "otherbot: noai, noindex" speaks of one program, and of it to the end of the line.
            if colon and not name.strip().startswith(_OWN_VALUES):
                agent, directive = name.strip(), rest  # noqa: PLW2901
            if agent in {"", "*", "sseg"} and directive.strip() in words:
                return True
    return False


def _proxy_hosts() -> frozenset[str]:
    """Return the hosts of the environment's proxies, which mostly have private addresses."""
    return frozenset(host for proxy in getproxies().values() if (host := urlsplit(proxy).hostname))


def _parsed(text: str, base: URL | None = None) -> URL:
    """Return a URL whose parts can be had; relative ones belong to `base`."""
    try:
        url = URL(text) if base is None else base.join(URL(text))
        _ = text and (url.host, url.port, url.raw_path_qs)  # parsed late, with errors of many kinds
    except Exception as error:  # what strangers write has no end
        raise FetchError("bad URL") from error
    if not text:
        raise FetchError("bad URL")
    return url


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a server asks to wait: a number, or until a date."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - datetime.now(UTC).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def _as_fetch_error(error: Exception) -> FetchError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PrivateAddressError):
            return FetchError("private address")
        cause = getattr(cause, "os_error", None) or cause.__cause__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError("host not found", passing=True)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return FetchError("bad certificate")
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated", passing=True)
    if isinstance(error, aiohttp.InvalidURL | ValueError | UnicodeError):
        return FetchError("bad URL")
    return FetchError("connection lost", passing=True)
