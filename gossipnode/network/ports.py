"""Taking ports: the one for peers, and with trust a second one for people.

Invariant: what listens beyond loopback was asked for, by a bundle, ``insecure`` or ``status_bind``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address

from gossipnode.config import NetworkOptions
from gossipnode.errors import ConfigError, NetworkError

BACKLOG = 512


class PortTakenError(NetworkError):
    """Somebody listens there already."""


async def bind(
    options: NetworkOptions, *, is_secure: bool = False, is_status: bool = False
) -> socket.socket:
    """Return a listening socket on ``options.bind`` and ``options.port``, or the status' ones.

    Raises ``ConfigError`` for an address that is not loopback, unless that ``is_secure`` or
    ``options.insecure``, ``PortTakenError`` where somebody listens there, and ``NetworkError``
    where the address is not this machine's.
    """
    host, port, what = options.bind, options.port, ""
    if is_status:
        host, port, what = options.status_bind, status_port(options), "status_"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(
            f"{host!r} is no address of this machine: {error.strerror}", key=f"network.{what}bind"
        ) from None
    family, kind, protocol, _, address = found[0]
    if not is_status:  # whoever sets status_bind shows what is not secret
        require_loopback(str(address[0]), insecure=is_secure or options.insecure)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_bind(host, port, what, error) from None
    listener.setblocking(False)
    return listener


def status_port(options: NetworkOptions) -> int:
    """Return the port of the second listener; 0 takes a free one."""
    if options.status_port is not None:
        return options.status_port
    return options.port + 1 if 0 < options.port < 65_535 else 0


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


def _cannot_bind(host: str, port: int, what: str, error: OSError) -> NetworkError:
    where, flag = f"{host}:{port}", f"--{what.replace('_', '-')}port"
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"{where} is in use: stop the process that listens there, or choose another port with "
            f"{flag} (0 takes a free one)"
        )
    if error.errno == errno.EACCES:
        return NetworkError(
            f"{where} may not be bound: ports below 1024 need privileges; choose another {flag}"
        )
    return NetworkError(f"{where} cannot be bound: {error.strerror}")
