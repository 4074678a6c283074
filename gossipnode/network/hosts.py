"""Which names a node goes by in the ``Host`` of a request.

A web page can have its own name resolve to an address of this machine, and then read what a node
answers as if it were its own site (DNS rebinding). Its requests still say the page's name. Numbers
cannot be rebound; of names those are taken that people gave this node. Sockets may not enter.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from gossipnode.logs import bounded


def host_of(header: str) -> str:
    """Return the host of ``Host``, lower-case, without port and brackets; empty where it is none.

    >>> host_of("Alpha:7946"), host_of("[::1]:80"), host_of("a@b")
    ('alpha', '::1', '')
    """
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        return ""
    plain = parts.netloc == header and "@" not in header
    return (parts.hostname or "").rstrip(".") if plain else ""


def is_ours(header: str, names: Collection[str]) -> bool:
    """Whether a request to ``Host: header`` was meant for the node of these ``names``."""
    host = host_of(header)
    if host in names or host == "localhost":
        return bool(host)
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def not_ours(header: str) -> str:
    """Return what to tell whoever asked for another host."""
    name = bounded(header, 100)
    return f"this node does not go by {name!r}; if it should, put the name into network.hosts"
