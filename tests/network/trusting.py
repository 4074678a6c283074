"""Authorities, bundles and handshakes in memory, for tests of trust."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.contexts import context_of

__all__ = ["DAY", "authority_in", "bundle_of", "context_of", "contexts_of", "now", "shake"]

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def authority_in(folder: Path, swarm: str = "swarm") -> Authority:
    return Authority.create(folder, swarm, now())


def bundle_of(
    authority: Authority,
    name: str,
    *,
    address: str = "",
    expired: bool = False,
    at: datetime.datetime | None = None,
) -> Bundle:
    """A bundle for a new node; an expired one was issued, rightly, some days ago.

    Where the name is taken, it gets a longer one.
    """
    at = at or (now() - 3 * DAY if expired else now())
    taken = {each.name for each in authority.nodes() if not each.revoked}
    if name in taken:
        name += f"-{len(taken)}"
    return authority.issue([(name, address)], at, ttl=DAY)[0]


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, server_name: str | None = None
) -> tuple[Exception | None, Exception | None]:
    """One handshake in memory: what the server and what the client made of it, None for success."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = {
        "server": server.wrap_bio(to_server, to_client, server_side=True),
        "client": client.wrap_bio(to_client, to_server, server_hostname=server_name),
    }
    failed: dict[str, Exception | None] = {"server": None, "client": None}
    open_ = set(ends)
    for _ in range(6):
        for side in ("client", "server"):
            if side not in open_:
                continue
            try:
                ends[side].do_handshake()
                open_.discard(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                failed[side] = error
                open_.discard(side)
    if failed["client"] is None and failed["server"] is not None:
        try:  # under TLS 1.3 the client hears of it when it reads
            ends["client"].read(1)
        except ssl.SSLError as error:
            failed["client"] = error
    return failed["server"], failed["client"]


def contexts_of(bundle: Bundle) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return context_of(bundle, serving=True), context_of(bundle, serving=False)
