"""Where somebody of the swarm may be found: URLs that people gave, and the names in them.

A name may stand for many nodes (a headless service of Kubernetes, containers of one service), and
for others an hour later, so it is resolved anew each time. Invariant: what comes out are addresses
to be asked; who answers there, and whether it is this node itself, is for the asker to find out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from gossipnode.errors import NetworkError
from gossipnode.logs import event
from gossipnode.node.addresses import is_number

log = logging.getLogger("gossipnode.network.sources")

# Of the addresses of a name; a swarm of any size is entered through a few.
NUMBERS_MAX = 256
PORTS = {"http": 80, "https": 443}

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the numbers of a host and port; raises ``OSError`` where there are none."""


async def resolve(host: str, port: int) -> list[str]:
    """Return what the system knows of ``host``, each number once; raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def addresses_of(url: str, resolver: Resolver = resolve) -> list[str]:
    """Return the addresses, with numbers for hosts, that ``url`` stands for.

    Raises ``NetworkError`` where the name does not resolve.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    if is_number(host):
        return [url]
    try:
        numbers = await resolver(host, port)
    except (OSError, UnicodeError):
        numbers = []
    if not numbers:
        raise NetworkError(f"{url}: the name does not resolve")
    hosts = [f"[{number}]" if ":" in number else number for number in numbers[:NUMBERS_MAX]]
    return [f"{parts.scheme}://{host}:{port}" for host in hosts]


class Sources:
    """The ``urls`` that the swarm was, or was to be, joined through."""

    def __init__(self, urls: Sequence[str] = (), resolver: Resolver = resolve) -> None:
        self.urls, self._resolver = tuple(urls), resolver

    async def find(self) -> list[str]:
        """Return all addresses, as of now; a name that does not resolve has none."""
        found: dict[str, None] = {}
        for url in self.urls:
            try:
                found |= dict.fromkeys(await addresses_of(url, self._resolver))
            except NetworkError as error:
                event(log, logging.DEBUG, "seed.unresolved", reason=str(error))
        return list(found)


def is_here(address: str) -> bool:
    """Whether ``address``, a URL with a number, is on this machine."""
    host = urlsplit(address).hostname or ""
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
