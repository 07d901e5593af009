"""The host and port at which the nodes of a job meet: who opens it, and what can be wrong."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sseg_core.errors import ConfigError

TIMEOUT_S = 900
"""How long a node waits for the others."""

MAX_PORT: Final = 65_535
POLL_S: Final = 0.2
PROBE_S: Final = 5.0


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of a job meet, as `HOST:PORT`; an IPv6 address stands in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Rendezvous:
    """Return the place that the option --rendezvous names.

    Raises:
        ConfigError: the text is not `HOST:PORT`.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = host and (bracketed or ":" not in host) and port.isascii() and port.isdecimal()
    if not well_formed or not 1 <= int(port) <= MAX_PORT:
        raise ConfigError(
            f"--rendezvous must be HOST:PORT, got {text!r}.",
            "Name the first node and a free port, for example --rendezvous node1:29500.",
        )
    return Rendezvous(host, int(port))


def is_hosted_here(place: Rendezvous) -> bool:
    """Return whether the nodes meet on this machine, and this process is to open the port.

    Raises:
        ConfigError: the host is unknown, or another program has the port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"The host {place.host!r} of --rendezvous is not known.", "Use its address instead."
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        # As the server itself does: the remains of a run that has ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False  # an address of another machine
            raise ConfigError(
                f"Port {place.port} of --rendezvous cannot be used on this machine: "
                f"{error.strerror}.",
                "Choose another port, the same on every node.",
            ) from error
    return True


def await_host(place: Rendezvous, nodes: int, check: Callable[[], None]) -> None:
    """Wait until the first node has opened its port; torch itself would wait for a minute only.

    Args:
        place: the port of the first node.
        nodes: how many are to meet there.
        check: called again and again; what it raises ends the wait.

    Raises:
        ConfigError: it did not do so in time.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0:
        check()
        try:
            socket.create_connection((place.host, place.port), timeout=min(left, PROBE_S)).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise nodes_missing(place, nodes)


def nodes_missing(place: Rendezvous | None, nodes: int) -> ConfigError:
    """Return the error of a node that has waited for the others in vain."""
    return ConfigError(
        f"Not all of the {nodes} nodes came to {place} within {TIMEOUT_S} s.",
        "Run the same command on every node, and let them reach this port.",
    )
