"""How ``gossipnode start`` finds the swarm that it is to enter, if it is to enter one.

First those whom ``--join`` names, or the LAN shows; where nobody of them answers, those whom the
address book of an earlier life has. Whoever had joined needs no ``--join`` to come back. Invariant:
a node begins a swarm of its own only where nobody told it to join one, or where it is one of those
that the name stands for; and nothing is written here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gossipnode.cli.flags import read_config
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import NetworkError, StorageError
from gossipnode.logs import event
from gossipnode.network import HttpNode
from gossipnode.network.sources import PORTS, Resolver, Sources, addresses_of, is_here, resolve
from gossipnode.network.tokens import readers_token
from gossipnode.network.world import data_folder
from gossipnode.node.addresses import is_number
from gossipnode.node.membership.book import Page, read_page
from gossipnode.node.place import host_id

if TYPE_CHECKING:
    from gossipnode.cli.join import Joined
    from gossipnode.network.discovery import Lan
    from gossipnode.network.trust.trust import Trust

log = logging.getLogger("gossipnode.cli.entering")

# Whatever the swarm says, these are a node's own; so they can be read before it is asked.
OWN = ("node", "swarm", "network", "trust", "checkpoint", "log")


@dataclass(frozen=True, slots=True)
class Entry:
    """How a swarm is entered: by whom this node has ``joined``, or by its ``page`` alone.

    ``urls`` are asked again when nobody is known any more. ``met`` are the first peers.
    """

    urls: tuple[str, ...] = ()
    joined: Joined | None = None
    page: Page | None = None
    met: tuple[PeerEntry, ...] = field(default=())

    @property
    def has_options(self) -> bool:
        """Whether the swarm's options are taken over."""
        return self.joined is not None or self.page is not None

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]] | None:
        """The swarm's options, with what this node had of its own; None: no others than given."""
        told = {} if self.joined is None else self.joined.options
        if self.page is None:
            return told or None
        kept = {name: self.page.options.get(name, {}) for name in ("node", "data")}
        own = {
            "node": {"id": kept["node"]["id"]} if "id" in kept["node"] else {},
            "data": {"share": kept["data"]["share"]} if "share" in kept["data"] else {},
        }
        told = told or self.page.options
        return {name: {**told.get(name, {}), **own.get(name, {})} for name in {**told, **own}}


def own_options(path: Path | None, settings: Sequence[str], flags: dict[str, Any]) -> Config:
    """Return the options that are this node's own, before the swarm has told the others."""
    prefixes = tuple(f"{name}." for name in OWN)
    mine = [setting for setting in settings if setting.strip().startswith(prefixes)]
    given = {key: value for key, value in flags.items() if key.startswith(prefixes)}
    return read_config(path, mine, given, only=OWN)


async def find_swarm(
    urls: Sequence[str], own: Config, resolver: Resolver = resolve, lan: Lan | None = None
) -> Entry | None:
    """Return how the swarm is entered; None where this node is to begin by itself.

    Raises ``NetworkError`` where it was to join and nobody answers.
    """
    trust = _trust(own) if urls or own.network.discover else None
    nearby = await _nearby(own, trust, lan)
    page, damage = _book(own, urls, trust)
    if urls or nearby:
        try:
            joined = await _join(urls, nearby, own, trust, resolver)
            return Entry(tuple(urls), joined, page)
        except NetworkError as error:
            reason = str(error)
        if page is None and not urls:
            return None  # who announces itself there is another, or has gone
        if page is None and not await _is_one_of(urls, own, resolver):
            raise NetworkError(f"{reason}{damage}")
        if page is None:
            event(log, logging.WARNING, "join.first", reason=f"this node is one of them; {reason}")
            return Entry(tuple(urls))
        count = len(page.contacts)
        event(log, logging.WARNING, "join.by_book", reason=reason, contacts=count)
    elif page is None or not _comes_back(own, page):
        return None
    asked = () if urls else page.through
    return await _by_book(tuple(urls) or page.through, asked, page, trust or _trust(own), resolver)


def comes_back(own: Config) -> bool:
    """Whether a node that is told no URL goes back to a swarm that it had joined."""
    page, _ = _book(own, (), _trust(own))
    return page is not None and _comes_back(own, page)


async def _join(
    urls: Sequence[str],
    nearby: Sequence[str],
    own: Config,
    trust: Trust | None,
    resolver: Resolver,
) -> Joined:
    """Return what those at ``urls`` say, or those ``nearby``; raises ``NetworkError``."""
    from gossipnode.cli.join import join_any  # what reads model files, for those who join alone

    try:
        # Not shown to those nearby or in the book: strangers may have named their addresses.
        return await join_any(urls, trust, resolver, readers_token(own))
    except NetworkError:
        if not nearby:
            raise
        return await join_any(nearby, trust, resolver)


async def _by_book(
    through: tuple[str, ...],
    asked: Sequence[str],
    page: Page,
    trust: Trust | None,
    resolver: Resolver,
) -> Entry:
    """Return the entry by whom the book has; by what it says alone where nobody answers."""
    from gossipnode.cli.join import join_any

    try:
        addresses = [contact.address for contact in page.contacts]
        return Entry(through, await join_any([*asked, *addresses], trust, resolver), page)
    except NetworkError as error:
        # All may be starting again, as this one is: whoever is up first is found by the others.
        event(log, logging.WARNING, "join.nobody_yet", reason=str(error))
        return Entry(through, None, page)


def _book(own: Config, urls: Sequence[str], trust: Trust | None) -> tuple[Page | None, str]:
    """Return the book of an earlier life that had joined a swarm, or why it cannot be read."""
    if not own.checkpoint.enabled:
        return None, ""
    try:
        page = read_page(_folder(own, urls, trust))
    except StorageError as error:
        event(log, logging.ERROR, "book.damaged", reason=str(error))
        return None, f"; and the address book is damaged: {error}"
    return (page if page is not None and page.joined else None), ""


def _trust(own: Config) -> Trust | None:
    """Return what the bundle makes of this node, before the swarm has told its other options."""
    if not own.trust.bundle:
        return None
    from gossipnode.network.trust.trust import trust_of

    return trust_of(own)


def _folder(own: Config, urls: Sequence[str], trust: Trust | None) -> Path:
    """Return the folder of this node's earlier life.

    The swarm's name, which is in it, may be known by the swarm alone: then it is the one whose
    book was begun through one of ``urls``.
    """
    node_id = own.node.id or (host_id() if trust is None else trust.member.id)
    if trust is not None:
        swarm = own.swarm.model_copy(update={"name": trust.member.swarm})
        own = own.model_copy(update={"swarm": swarm})
    folder = data_folder(own, node_id)
    if own.node.data_dir or trust is not None or "name" in own.swarm.model_fields_set:
        return folder
    for other in sorted(folder.parents[1].glob(f"*/{node_id}")):
        with contextlib.suppress(StorageError):
            page = read_page(other)
            if page is not None and set(page.through) & set(urls):
                return other
    return folder


def _comes_back(own: Config, page: Page) -> bool:
    """Whether a node that was told nothing is to go where it was before."""
    return page.joined and not own.swarm.peers and not own.checkpoint.fresh


async def _nearby(own: Config, trust: Trust | None, lan: Lan | None) -> list[str]:
    """Return the addresses of nodes of this swarm on the LAN, if they are to be looked for."""
    if not own.network.discover or own.swarm.peers:
        return []
    from gossipnode.network.discovery import Discovery

    if lan is None:
        from gossipnode.network.zeroconf_lan import ZeroconfLan

        lan = ZeroconfLan()
    swarm = own.swarm.name if trust is None else trust.member.swarm
    return await Discovery(lan, swarm, own.node.id or host_id()).look()


async def _is_one_of(urls: Iterable[str], own: Config, resolver: Resolver) -> bool:
    """Whether a name in ``urls`` stands for this machine, on the port that this node will have.

    Then it is one of the first: the others that the name stands for are found as they come up.
    """
    for url in urls:
        parts = urlsplit(url)
        if is_number(parts.hostname or "") or own.network.port != (
            parts.port or PORTS[parts.scheme]
        ):
            continue
        try:
            addresses = await addresses_of(url, resolver)
        except NetworkError:
            continue
        if any(map(is_here, addresses)):
            return True
    return False


def enter(node: HttpNode, entry: Entry) -> None:
    """Let the node begin with what was found; call it before ``node.run``.

    Raises ``ConfigError`` where the swarm's model does not fit the data of this node.
    """
    if entry.joined is not None:
        from gossipnode.cli.join import adopt

        adopt(node, entry.joined)
    node.meet(entry.met)
    node.sources = Sources(entry.urls)
    book = None if node.membership is None else node.membership.book
    if book is not None:
        book.joined, book.through = entry.has_options, entry.urls
