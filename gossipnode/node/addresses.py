"""Which addresses a node takes from strangers, and which it dials for them.

A peer says where it is reached, and is pushed to there: so it could have this node send requests
to whatever only this node reaches (a cloud's metadata service, the machine's own ports, everybody
on the wire). Invariant: what ``is_address`` and ``may_dial`` let pass is a node's origin, and no
such place. What people wrote into peers.toml is theirs to know, and not asked here.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from gossipnode.config import PeerEntry

# fd00:ec2::254 and 100.100.100.200 are metadata services that are not link-local; so is the first
# of these, 169.254.169.254, under its IPv6 clothes.
METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
CHARS_MAX = 255


class Reach:
    """What a name may resolve to when it is dialled: all, if people wrote it down.

    A name that a stranger gave is asked for what it stands for then, not before: it may stand for
    something else by now. ``own`` is this node's address, once it has one.
    """

    def __init__(self, listed: Iterable[PeerEntry] = (), own: str = "") -> None:
        self._listed = {urlsplit(entry.address).netloc for entry in listed}
        self.own = own

    def allows(self, host: str, port: int, number: str) -> bool:
        """Tell whether a node dials ``number`` for ``host`` and ``port``."""
        return is_number(host) or f"{host}:{port}" in self._listed or may_dial(number, self.own)


def is_address(text: str, own: str = "") -> bool:
    """Tell whether ``text`` is an address that a node may have: http:// or https://HOST:PORT.

    ``own`` is this node's, empty where it has none. Names are not resolved: see ``may_dial``.

    >>> is_address("http://10.0.0.7:7946"), is_address("http://10.0.0.7:7946/x")
    (True, False)
    >>> is_address("http://169.254.169.254:80"), is_address("http://127.0.0.1:80", "http://h:1")
    (False, False)
    """
    try:
        parts = urlsplit(text)
        is_origin = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and bool(parts.port)  # none, or 0
            and not (parts.path or parts.query or parts.fragment)
            # As written: urlsplit drops what no address has, such as an empty "?" or "@".
            and text.rpartition("://")[2].translate(_PLAIN) == ""
            and len(text) <= CHARS_MAX
        )
    except ValueError:
        return False
    return is_origin and (not is_number(parts.hostname or "") or may_dial(parts.hostname, own))


_PLAIN = dict.fromkeys(
    map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%")
)


def may_dial(number: str | None, own: str) -> bool:
    """Tell whether a node at the address ``own`` dials the IP address ``number`` for a stranger.

    Loopback is for nodes that are there themselves.
    """
    address = _plain(ip_address((number or "").partition("%")[0]))
    if address.is_loopback:
        return is_loopback(own)
    return not (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in METADATA
        or address == IPv4Address("255.255.255.255")
        or (isinstance(address, IPv4Address) and int(address) < 2**24)
    )


def is_loopback(own: str) -> bool:
    """Tell whether ``own``, an address as ``is_address`` takes it, is on loopback."""
    host = urlsplit(own).hostname or ""
    return host == "localhost" or is_loopback_number(host)


def is_loopback_number(host: str) -> bool:
    """Tell whether ``host`` is an IP address that leads nowhere but to this machine."""
    host = host.partition("%")[0]
    return is_number(host) and _plain(ip_address(host)).is_loopback


def is_number(host: str) -> bool:
    """Tell whether ``host`` is an IP address and no name."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64), if it does."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and int(address) >> 32 == int(IPv6Address("64:ff9b::")) >> 32:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        return inner if inner is not None else address
    return address
