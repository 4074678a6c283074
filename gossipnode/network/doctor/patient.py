"""Whom the doctor looks at: a node as its config describes it, whether it runs or not."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import GossipNodeError
from gossipnode.network.answers import json_value
from gossipnode.network.client import Heard, HttpClient
from gossipnode.network.doctor.findings import STEP_S, aside
from gossipnode.node.addresses import is_loopback
from gossipnode.node.place import host_id

if TYPE_CHECKING:
    from gossipnode.network.trust.trust import Trust

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass
class Patient:
    """A node to be: ``config`` with all that is settled, and the peer list, itself included.

    ``trust`` is that of its bundle, ``token`` what its readers must show. ``listener`` is its port,
    where that was free: held while the others are asked to dial it. ``is_running`` tells whether
    the node itself was found there.
    """

    config: Config
    peers: Sequence[PeerEntry] = ()
    trust: Trust | None = None
    token: str = ""
    listener: socket.socket | None = None
    is_running: bool = False
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = {entry.address: entry.id for entry in self.peers}

    @property
    def id(self) -> str:
        """The node's id, as it will be."""
        return self.config.node.id or host_id()

    @property
    def others(self) -> list[PeerEntry]:
        """The peer list without this node."""
        return [entry for entry in self.peers if entry.id != self.id]

    @property
    def advertised(self) -> str:
        """Where peers dial this node; empty where nobody said."""
        options, listed = self.config.network, {e.id: e.address for e in self.peers}
        address = options.advertise.rstrip("/") or listed.get(self.id, "")
        if address or options.bind in WILDCARDS:
            return address
        return self.url_at(options.bind, self.port)

    @property
    def port(self) -> int:
        """The port that it listens on; 0 while nobody knows."""
        if self.listener is not None:
            return int(self.listener.getsockname()[1])
        return self.config.network.port

    @property
    def is_local(self) -> bool:
        """Whether it is on loopback, and may so have peers there."""
        return is_loopback(self.advertised)

    def url_at(self, host: str, port: int) -> str:
        """Return the URL of this node's port for peers at ``host``."""
        host = f"[{host}]" if ":" in host else host
        return f"{'http' if self.trust is None else 'https'}://{host}:{port}"

    def client(self, *, as_reader: bool = False) -> HttpClient:
        """Return a client that shows this node's certificate, and knows who must answer where.

        ``as_reader`` shows the token, too: to the node itself, or whoever the user names.
        """
        token = self.token if as_reader else ""
        if self.trust is None:
            return HttpClient(token=token)
        dates = self.trust.dates
        return HttpClient(self.trust.dialling, self.ids.get, lambda: dates, token)


def called(entry: PeerEntry) -> str:
    """Return what people call a peer."""
    return entry.name or entry.id


async def numbers_of(host: str) -> list[str]:
    """Return what a host name stands for, an IP address for itself; empty where for nothing.

    Raises ``TimeoutError``.
    """
    ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = await aside(ask, within_s=STEP_S)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def host_and_port(url: str) -> tuple[str, int]:
    """Return both of a URL; the port of its scheme where it names none."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


async def node_at(client: HttpClient, url: str) -> str | None:
    """Return the id of the node that answers at ``url``; None where none does."""
    try:
        heard = await client.ask("GET", f"{url}/v1/status", STEP_S)
    except GossipNodeError:
        return None
    found = table_of(heard).get("node_id")
    return found if isinstance(found, str) else None


def table_of(heard: Heard) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one where it is none."""
    try:
        value = json_value(heard.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def number_of(value: Any) -> float | None:
    """Return a number of an answer; None where it is none, or not finite: an int has no bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
