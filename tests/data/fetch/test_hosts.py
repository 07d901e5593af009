"""Turns at hosts, and addresses that must not be asked."""

from __future__ import annotations

import asyncio
import time

import pytest

from sseg_core.data.fetch.hosts import CarefulResolver, Hosts, PrivateAddressError, is_private
from sseg_core.data.fetch.image_request import opts_out

REFUSALS = ("noai", "noimageai")


def test_a_host_takes_so_many_requests_at_once() -> None:
    """Others are not held up by it."""

    async def run() -> tuple[dict[str, int], float]:
        hosts, now, most = Hosts(3), dict.fromkeys("ab", 0), dict.fromkeys("ab", 0)

        async def ask(name: str) -> None:
            async with hosts.turn(name):
                now[name] += 1
                most[name] = max(most[name], now[name])
                await asyncio.sleep(0.02)
                now[name] -= 1

        begin = time.monotonic()
        await asyncio.gather(*(ask("a") for _ in range(9)), *(ask("b") for _ in range(2)))
        assert not hosts._hosts  # none is kept
        return most, time.monotonic() - begin

    most, seconds = asyncio.run(run())
    assert most == {"a": 3, "b": 2}
    assert seconds >= 0.06


def test_a_host_that_asks_for_a_pause_gets_it() -> None:
    """All that wait for it wait longer; nobody waits for more than half a minute."""

    async def run() -> tuple[float, float]:
        hosts = Hosts(2)
        async with hosts.turn("a"):
            hosts.pause("a", 0.2)
        begin = time.monotonic()
        async with hosts.turn("a"):
            waited = time.monotonic() - begin
            hosts.pause("a", 10_000)
            longest = hosts._hosts["a"].free_at - time.monotonic()
        return waited, longest

    waited, longest = asyncio.run(run())
    assert 0.15 < waited < 5
    assert longest <= 30


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("192.168.0.1", True), ("172.16.9.9", True),
        ("169.254.169.254", True), ("0.0.0.0", True), ("100.64.0.1", True), ("224.0.0.1", True),
        ("[::1]", True), ("fe80::1%eth0", True), ("fc00::1", True), ("::ffff:10.0.0.1", True),
        ("64:ff9b::7f00:1", True), ("::127.0.0.1", True), ("64:ff9b:1::1", True),
        ("fec0::1", True), ("::ffff:0:127.0.0.1", True), ("192.88.99.1", True),
        ("2002:7f00:1::", True), ("255.255.255.255", True),
        ("8.8.8.8", False), ("1.1.1.1", False), ("2606:4700::1111", False),
        ("::ffff:8.8.8.8", False), ("example.org", False),
    ],
)  # fmt: skip
def test_private_addresses_are_known(address: str, private: bool) -> None:
    """In all the clothes that they come in."""
    assert is_private(address) == private


def test_a_name_of_a_private_address_is_refused() -> None:
    """By the address that the connection would take."""

    async def run(private: bool) -> list[str]:
        resolver = CarefulResolver(private=private)
        return [found["host"] for found in await resolver.resolve("localhost", 80)]

    with pytest.raises(PrivateAddressError):
        asyncio.run(run(False))
    assert "127.0.0.1" in asyncio.run(run(True))


def test_hosts_that_are_gone_are_not_asked_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After two lookups that failed."""
    asked: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
            asked.append(host)
            raise OSError("no such host")

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        resolver = CarefulResolver(private=False)
        for _ in range(5):
            with pytest.raises(OSError):  # noqa: PT011 - whatever its text
                await resolver.resolve("gone.example")

    asyncio.run(run())
    assert asked == ["gone.example"] * 2


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        (["noai"], True), (["noindex, NoImageAI"], True), (["noindex"], False), ([], False),
        (["googlebot: noai"], False), (["*: noai"], True), (["sseg: nofollow, noai"], True),
        (["googlebot: nofollow, noai"], False), (["max-image-preview:large, noai"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST", "noimageai"], True),
        (["otherbot: noindex", "noai"], True),
    ],
)  # fmt: skip
def test_those_who_opt_out_are_respected(tags: list[str], refused: bool) -> None:
    """Where the header speaks to every program, or to this one."""
    assert opts_out(tags, REFUSALS) == refused
