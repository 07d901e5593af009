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
_TIMEOUTS = 8  # in a row, before a host counts as silent for the same while
_NOTED = 100_000  # hosts with such a mark; lists name millions
# What Python's `is_global` lets through: addresses of IPv4 in old and in local clothes, and of
# sites, and relays of 6to4.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10", "192.88.99.0/24")
)


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
    _silent: dict[str, tuple[int, float]] = field(default_factory=dict)

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

    def timed_out(self, name: str) -> None:
        """Note that a host did not answer in time."""
        count, _ = self._silent.get(name, (0, 0.0))
        _make_room(self._silent)
        self._silent[name] = (count + 1, time.monotonic() + _GONE_S)

    def answered(self, name: str) -> None:
        """Note that a host did."""
        self._silent.pop(name, None)

    def is_silent(self, name: str) -> bool:
        """Tell whether a host has let pass so many requests in a row that others would too."""
        count, until = self._silent.get(name, (0, 0.0))
        return count >= _TIMEOUTS and time.monotonic() < until


class CarefulResolver(ThreadedResolver):
    """Looks hosts up; does not ask again and again for those that are gone.

    Args:
        private: whether addresses of this machine and of local networks may be returned. They are
            checked here, where the connection takes them from, so that a second answer of a name
            server cannot change them.
        trusted: hosts that may have such addresses all the same: proxies.
    """

    def __init__(self, *, private: bool, trusted: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._private = private
        self._trusted = trusted
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
            _make_room(self._failures)
            self._failures[host] = (count + 1, time.monotonic() + _GONE_S)
            raise
        open_to_all = self._private or host in self._trusted
        if not open_to_all and any(is_private(address["host"]) for address in found):
            raise PrivateAddressError(None, "its address is private")
        return found


def _make_room(notes: dict[str, tuple[int, float]]) -> None:
    if len(notes) > _NOTED:
        notes.clear()


def is_private(host: str) -> bool:
    """Tell whether a host is written as an address that is not of the public internet."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if any(address.version == network.version and address in network for network in _SPECIAL):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        # IPv4 in the clothes of IPv6: mapped, and translated by NAT64 or 6to4.
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(str(inner))
    return not address.is_global or address.is_multicast
