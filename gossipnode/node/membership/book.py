"""The address book: who was there, and what they had agreed on, for the life after this one.

A swarm whose machines have all lost power forms again without the node through which it was
joined: each asks the others where they were last. Invariant: the book on disk is whole or it is
put aside; it is an aid, so nothing that is wrong with it ends a node. Entries are hearsay, to be
checked like any other: whoever answers there is who it says, or with trust who it proves to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash
from pydantic import Field, ValidationError

from gossipnode.config import PeerEntry
from gossipnode.errors import StorageError
from gossipnode.logs import event
from gossipnode.node.checkpoint import SMALL_BYTES_MAX
from gossipnode.node.report import shared_options
from gossipnode.node.world import Store
from gossipnode.options import Section
from gossipnode.wire.message import Kind

if TYPE_CHECKING:
    from gossipnode.node.membership.membership import Handler, Membership
    from gossipnode.node.node import Node

log = logging.getLogger("gossipnode.node")

FILE = "book"
# Some 100 bytes each; a view has 20, and those of half an hour fit.
CONTACTS_MAX = 256
BYTES_MAX = SMALL_BYTES_MAX
# Between two writes; and before the first one, which comes soon.
EVERY_S, FIRST_S = 30.0, 2.0
# Times in the book are whole seconds.
CLOCK_S = 1.0
_TITLE = "gossipnode book 1"


class Contact(PeerEntry):
    """A peer's last known address; ``heard`` is when it was heard of, seconds since 1970, or 0."""

    heard: float = Field(0.0, ge=0, allow_inf_nan=False)


class Page(Section):
    """All that a book holds.

    ``options`` are those that the swarm shares, by section, with this node's share of the data and
    its id; ``joined`` tells whether they were taken over from the swarm, and ``through`` by which
    URLs.
    """

    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    joined: bool = False
    through: tuple[str, ...] = ()
    contacts: tuple[Contact, ...] = Field((), max_length=CONTACTS_MAX)


def page_bytes(page: Page) -> bytes:
    """Return the book's file: a title with the digest of the rest, and JSON."""
    text = page.model_dump_json().encode()
    return f"{_TITLE} {xxhash.xxh3_128_hexdigest(text)}\n".encode() + text


def parse_page(data: bytes) -> Page:
    """Return what ``page_bytes`` was given; raises ``StorageError`` where it was not."""
    title, _, text = data.partition(b"\n")
    if title != f"{_TITLE} {xxhash.xxh3_128_hexdigest(text)}".encode():
        raise StorageError("it is not what was written")
    try:
        return Page.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(f"it is none: {str(error).splitlines()[0]}") from None


def read_page(folder: Path) -> Page | None:
    """Return the book in a node's folder, None where there is none.

    Raises ``StorageError``; changes nothing, so that it needs no lock.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return parse_page(data)
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from None


class AddressBook:
    """The part of ``membership`` that keeps the book: what of it is in memory, and on the disk.

    ``contacts`` are at most ``CONTACTS_MAX``, by id; of more, those heard of last.
    """

    def __init__(self, membership: Membership) -> None:
        self.membership, self.node = membership, membership.node
        self.words: Mapping[tuple[Kind, str], Handler] = {}
        self._due: float | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.joined = False
        self.through: Sequence[str] = ()
        self.contacts: dict[str, Contact] = {}
        self._written = b""
        self._fault = ""  # why it could not be written the last time

    def tick(self, now: float) -> float:
        """Write the book where it is time."""
        if self._due is None:  # soon: until then a crash would cost whom this node has joined
            self._due = now + FIRST_S
        if now >= self._due:
            self._due = now + (EVERY_S if self._written else FIRST_S)
            if self._keeping is None or self._keeping.done():
                self._keeping = self.membership.spawn(self.keep())
        return self._due

    async def leave(self) -> None:
        """Go without a word."""

    async def recall(self) -> None:
        """Read what was there before; a book that is damaged is put aside, and told of.

        Raises ``StorageError`` where it cannot be read, but may be whole.
        """
        node, store = self.node, self.node.world.store
        if store is None:
            return
        data = await node.world.work(store.read_small, FILE)
        if data is None:
            return
        try:
            page = parse_page(data)
        except StorageError as error:
            event(log, logging.ERROR, "book.damaged", reason=str(error))
            await self._put_aside(store)
            return
        self._written = data
        self.joined, self.through = page.joined, page.through
        wall = node.world.wall_time()
        self.note(c.model_copy(update={"heard": min(c.heard, wall)}) for c in page.contacts)

    async def _put_aside(self, store: Store) -> None:
        try:
            await self.node.world.work(store.put_aside, FILE)
        except StorageError as error:
            event(log, logging.WARNING, "book.not_kept", reason=str(error))

    def note(self, contacts: Iterable[Contact]) -> None:
        """Take in what is newer than what is known; nobody was heard of in the future.

        A clock that was ahead once must not keep old addresses above those of today.
        """
        wall = self.node.world.wall_time()
        for contact in contacts:
            if contact.id == self.node.id:
                continue
            known = self.contacts.get(contact.id)
            heard = 0.0 if known is None or known.heard > wall + CLOCK_S else known.heard
            if contact.heard >= heard:
                self.contacts[contact.id] = contact
        if len(self.contacts) > CONTACTS_MAX:
            newest = self.newest()[:CONTACTS_MAX]
            self.contacts = {contact.id: contact for contact in newest}

    def newest(self) -> list[Contact]:
        """Return the contacts, the one heard of last first."""
        return sorted(self.contacts.values(), key=lambda contact: -contact.heard)

    async def keep(self) -> None:
        """Write down whom this node knows now, if that is news; a disk that fails is told of."""
        node, store = self.node, self.node.world.store
        self._look_around()
        if store is None or not (self.contacts or self.joined):
            return
        data = page_bytes(
            Page(
                options=_options(node),
                joined=self.joined,
                through=tuple(self.through),
                contacts=tuple(self.newest()),
            )
        )
        if data == self._written:
            return
        try:
            await node.world.work(store.write_small, FILE, data)
        except StorageError as error:
            if str(error) != self._fault:  # once, not at every try: a full disk may stay so
                event(log, logging.WARNING, "book.not_kept", reason=str(error))
            self._fault = str(error)
            return
        self._written, self._fault = data, ""

    def _look_around(self) -> None:
        """Note the peers that are learnt; the others are in the peer list, or in the bundle."""
        node = self.node
        wall, now = node.world.wall_time(), node.time()
        for peer in node.peers.learnt:
            silent_s = wall if peer.heard_at is None else now - peer.heard_at
            heard = max(float(round(wall - silent_s)), 0.0)
            with contextlib.suppress(ValidationError):  # whoever claims an id that is none
                self.note([Contact(id=peer.id, address=peer.address, heard=heard)])


def _options(node: Node) -> dict[str, dict[str, Any]]:
    """Return what the swarm shares, and of the node's own what it must not lose."""
    options = shared_options(node)
    own = {"data": {"share": node.config.data.share}, "node": {"id": node.id}}
    return {name: {**options.get(name, {}), **own.get(name, {})} for name in {**options, **own}}
