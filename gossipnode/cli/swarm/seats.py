"""What each node of a swarm is given before the fork: a name, an address, sockets, a bundle.

Invariant: a seat's sockets are open until the family closes them; with TLS every seat has a bundle
of the run's own authority, which is in the run's folder like everything else of it.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Seat:
    """One node's place. ``pages`` is where status and model are read, by whoever is not a node.

    Without TLS that is its only socket, ``id`` is its name, and ``bundle`` is empty.
    """

    name: str
    entry: PeerEntry
    listener: socket.socket
    pages: str
    status_listener: socket.socket | None = None
    bundle: str = ""

    def close(self) -> None:
        """Close the sockets; harmless twice."""
        self.listener.close()
        if self.status_listener is not None:
            self.status_listener.close()


def plain_seats(listeners: Sequence[socket.socket]) -> list[Seat]:
    """Return seats that speak plain HTTP."""
    seats = []
    for i, listener in enumerate(listeners):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        entry = PeerEntry(id=f"node-{i}", address=url)
        seats.append(Seat(f"node-{i}", entry, listener, url))
    return seats


def trusted_seats(
    listeners: Sequence[socket.socket],
    status_listeners: Sequence[socket.socket],
    swarm: str,
    out: Path,
) -> list[Seat]:
    """Make an authority in ``out``, and return seats with bundles of it.

    Importing what that takes happens here, before the fork, so that the nodes share it.
    """
    from gossipnode.network.trust.authority import Authority
    from gossipnode.network.trust.bundle import NAME_CHARS_MAX

    if len(swarm) > NAME_CHARS_MAX:
        raise ConfigError(
            f"with TLS a swarm's name has at most {NAME_CHARS_MAX} characters", key="swarm.name"
        )
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    authority = Authority.create(out / "ca", swarm, now)
    requests = [
        (f"node-{i}", f"https://127.0.0.1:{listener.getsockname()[1]}")
        for i, listener in enumerate(listeners)
    ]
    bundles = authority.issue(requests, now)
    seats = []
    for bundle, entry, listener, status in zip(
        bundles, authority.peers(), listeners, status_listeners, strict=True
    ):
        path = out / "ca" / f"{entry.name}.bundle"
        bundle.write(path)
        pages = f"http://127.0.0.1:{status.getsockname()[1]}"
        seats.append(Seat(entry.name, entry, listener, pages, status, str(path)))
    return seats
