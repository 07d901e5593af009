"""The hosts that images come from: not too many requests at once, and none to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult

_LONGEST_PAUSE_S = 30.0
_FAILURES = 2  # of a lookup, before the host counts as gone for a while
_GONE_S = 300.0


class PrivateAddressError(OSError):
    """A host whose address is of this machine or of a local network."""


@dataclass
class _Host:
    turns: asyncio.Semaphore
    users: int = 0
    free_at: float = 0.0


@dataclass
class Hosts:
    """Turns at hosts.

    Attributes:
        limit: requests to one host at once.
    """

    limit: int
    _hosts: dict[str, _Host] = field(default_factory=dict)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait until the host takes another request, and count as one."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(asyncio.Semaphore(self.limit))
        host.users += 1
        try:
            async with host.turns:
                while (wait := host.free_at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                yield
        finally:
            host.users -= 1
            # Lists name millions of hosts; only those in use are kept.
            if not host.users and host.free_at <= time.monotonic():
                self._hosts.pop(name, None)

    def pause(self, name: str, seconds: float) -> None:
        """Ask nothing of a host for some seconds, at most half a minute."""
        if host := self._hosts.get(name):
            host.free_at = time.monotonic() + min(seconds, _LONGEST_PAUSE_S)


class CarefulResolver(ThreadedResolver):
    """Looks hosts up; does not ask again and again for those that are gone.

    Args:
        private: whether addresses of this machine and of local networks may be returned. They are
            checked here, where the connection takes them from, so that a second answer of a name
            server cannot change them.
    """

    def __init__(self, *, private: bool) -> None:
        super().__init__()
        self._private = private
        self._failures: dict[str, tuple[int, float]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: it has none, or none that may be asked.
        """
        count, until = self._failures.get(host, (0, 0.0))
        if count >= _FAILURES and time.monotonic() < until:
            raise OSError(None, "the host was not found a moment ago")
        try:
            found = await super().resolve(host, port, family)
        except OSError:
            if len(self._failures) > 100_000:
                self._failures.clear()
            self._failures[host] = (count + 1, time.monotonic() + _GONE_S)
            raise
        if not self._private and any(is_private(address["host"]) for address in found):
            raise PrivateAddressError(None, "its address is private")
        return found


def is_private(host: str) -> bool:
    """Tell whether a host is written as an address that is not of the public internet."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # IPv4 in the clothes of IPv6: mapped, and translated by NAT64 or 6to4.
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(str(inner))
    return not address.is_global or address.is_multicast
