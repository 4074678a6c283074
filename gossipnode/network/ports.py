"""Taking ports: the one for peers, and with trust a second one for people.

Invariant: what listens beyond loopback was asked for, by a bundle, ``insecure`` or ``status_bind``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from gossipnode.config import NetworkOptions, PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.logs import event

log = logging.getLogger("gossipnode.network.ports")

BACKLOG = 512


class PortTakenError(NetworkError):
    """Somebody listens there already."""


async def bind(options: NetworkOptions, *, is_secure: bool = False) -> socket.socket:
    """Return a listening socket on ``options.bind`` and ``options.port``.

    Raises ``ConfigError`` for an address that is not loopback, unless that ``is_secure`` or
    ``options.insecure``, ``PortTakenError`` where somebody listens there, and ``NetworkError``
    where the address is not this machine's.
    """
    family, address = await _resolved(options.bind, options.port, "bind")
    require_loopback(str(address[0]), insecure=is_secure or options.insecure)
    try:
        return _listen(family, address)
    except OSError as error:
        hint = "; or, where a node with a bundle has it for its pages, give that one --status-port"
        raise _cannot_bind(options.bind, options.port, "--port", error, hint * is_secure) from None


async def bind_pages(options: NetworkOptions, beside: Collection[int] = ()) -> socket.socket:
    """Return a listening socket for the pages of a node with trust; ``beside`` as below.

    Where nobody asked for a port and the one that is due is taken, it is a free one. Raises what
    ``bind`` does.
    """
    host, port = options.status_bind, status_port(options, beside)
    family, address = await _resolved(host, port, "status_bind")
    try:
        return _listen(family, address)
    except OSError as error:
        if options.status_port is not None or error.errno != errno.EADDRINUSE:
            raise _cannot_bind(host, port, "--status-port", error) from None
    listener = _listen(family, (address[0], 0, *address[2:]))
    found = listener.getsockname()[1]
    event(log, logging.WARNING, "status.moved", taken=port, port=found)
    return listener


def status_port(options: NetworkOptions, beside: Collection[int] = ()) -> int:
    """Return the port for the pages; 0 takes a free one.

    ``beside`` are the ports for peers of all nodes on this machine. Unless somebody asked for one,
    it is the next port that none of them needs, for peers or, by this same rule, for pages.

    >>> [status_port(NetworkOptions(port=p), (7000, 7001, 7010)) for p in (7000, 7001, 7010)]
    [7002, 7003, 7011]
    """
    if options.status_port is not None or not options.port:
        return options.status_port or 0
    taken, due = {*beside, options.port}, 0
    for port in sorted(taken):
        due = port + 1
        while due in taken:
            due += 1
        taken.add(due)
        if port == options.port:
            break
    return due if due <= 65_535 else 0


def ports_beside(address: str, peers: Iterable[PeerEntry]) -> set[int]:
    """Return the ports of all ``peers`` on the host of ``address``.

    >>> one, other = (PeerEntry(id=h, address=f"https://{h}:7000") for h in ("h1", "h2"))
    >>> ports_beside("https://h1:7001", [one, other])
    {7000}
    """
    host = urlsplit(address).hostname
    parts = (urlsplit(entry.address) for entry in peers)
    return {each.port for each in parts if each.hostname == host and each.port}


async def _resolved(host: str, port: int, key: str) -> tuple[int, Any]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a name
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise ConfigError(
            f"{host!r} is no address of this machine: {why}", key=f"network.{key}"
        ) from None
    return found[0][0], found[0][4]


def _listen(family: int, address: Any) -> socket.socket:
    """Return a socket that listens; raises ``OSError``."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def require_loopback(host: str, *, insecure: bool) -> None:
    """Raise ``ConfigError`` where ``host``, an IP address, is not loopback and may not be."""
    if not insecure and not ip_address(host.partition("%")[0]).is_loopback:
        raise ConfigError(
            f"{host} can be reached from outside, and this node speaks without encryption and "
            "without knowing who is there. Give it a bundle (--bundle, docs/security.md) or, on a "
            "network where you trust everybody, set network.insecure (--insecure)",
            key="network.bind",
            allowed="127.0.0.1, ::1, localhost",
        )


def _cannot_bind(host: str, port: int, flag: str, error: OSError, hint: str = "") -> NetworkError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"{where} is in use: stop the process that listens there, or choose another port with "
            f"{flag} (0 takes a free one){hint}"
        )
    if error.errno == errno.EACCES:
        return NetworkError(
            f"{where} may not be bound: ports below 1024 need privileges; choose another {flag}"
        )
    return NetworkError(f"{where} cannot be bound: {error.strerror}")
