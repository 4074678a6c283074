"""The talk in which nodes exchange entries of their views, and whom a push may go to because of it.

Every period one peer is asked, with some entries of the own view; it answers with some of its own
(``view`` has the rules). Where the view is empty, and now and then otherwise, somebody is asked
who was there before any view: a seed, a name's addresses, a contact of the address book, or a
listed peer. Invariant: the peers that are learnt are those in the view, so that a push goes to any
of the swarm, each as likely as another over time, and a node's memory is that of its view.

An entry that a node told of itself is handed on only once this node has found that very node at
its address: a node behind a NAT is pushed to over the lane that it opened, by those whom it asks,
and the others never hear of an address that leads nowhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from gossipnode.config.membership import ID_PATTERN
from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded, event
from gossipnode.node.addresses import is_address
from gossipnode.node.membership.view import Entry, PartialView
from gossipnode.node.peers import GONE, Peer
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.members import MEMBERS_MAX, Member
from gossipnode.wire.message import Kind, Message

if TYPE_CHECKING:
    from gossipnode.node.membership.membership import Handler, Membership, Outcome

log = logging.getLogger("gossipnode.node")

T = TypeVar("T")

WORD = "shuffle"
# Somebody from outside the view is asked every so many periods: two swarms that began apart, though
# both know a seed, find together. With periods of 10 s, 1000 nodes ask a seed 17 times a second.
OUTSIDE_EVERY = 6
TIMEOUT_S = 5.0
# States of peers that may be told of; nothing need be heard of one that others hand on.
THERE = ("unknown", "alive")
# For looking whether a peer is where it says: how long, at how many at a time, and for how many it
# is remembered.
VOUCH_TIMEOUT_S = 3.0
VOUCHING_MAX = 8
VOUCHED_KEPT = 1024


class Shuffle:
    """The part of ``membership`` that keeps the view, and with it the peers that are learnt."""

    def __init__(self, membership: Membership) -> None:
        self.membership, self.node = membership, membership.node
        options = membership.options
        self.period_s, self.length = options.shuffle_period_s, options.shuffle_size
        self.rng = membership.rng
        size = min(options.view, self.node.config.network.peers_max)
        self.view = PartialView(self.node.id, size, self.rng)
        self.words: Mapping[tuple[Kind, str], Handler] = {(Kind.VIEW, WORD): self._asked}
        # Cumulative algorithms owe each peer what they have handed it: they forget nobody.
        self._forgets = not self.node.algorithm.cumulative
        self._asking: Entry | None = None
        self._is_outside = False  # whether somebody from outside is being asked
        self._due: float | None = None
        self._periods = 0
        self._own: dict[str, None] = {}  # addresses at which this node itself has answered
        self._vouching: set[str] = set()
        self._reached: dict[tuple[str, str], None] = {}  # ids and addresses that were found so

    # -- whom this node knows ---------------------------------------------------------------------

    def meet(self, peer_id: str, address: str, *, hearsay: bool) -> Peer | None:
        """Take in a peer if there is a free place; None where there is none.

        It is not ``hearsay`` where it said so itself.
        """
        if self._is_sound(peer_id, address):
            self.view.add(Entry(peer_id, address, vouched=hearsay))
            self._vouch()
            if not self._forgets:
                self.node.peers.add(peer_id, address)
            self._keep_learnt()
        return self.node.peers.get(peer_id)

    def told(self, count: int) -> list[Entry]:
        """Return at most ``count`` entries for somebody who has none yet."""
        return self._sample(count)

    def _drop_gone(self) -> None:
        """Take those out of the view that are down or have left, while somebody else is there."""
        if self._is_alone:
            return
        known = self.node.peers.known
        for entry in list(self.view):
            if entry.id in known and known[entry.id].state in GONE:
                self.view.remove(entry.id)

    def _is_sound(self, peer_id: str, address: str) -> bool:
        """Whether a view may have this entry: no listed peer's, nor one that nobody could have."""
        return (
            peer_id not in self.node.directory.number
            and address != self.node.address
            and _could_be(peer_id, address, self.node.address or "")
        )

    def _keep_learnt(self) -> None:
        """Let the learnt peers be those of the view, and the one that is being asked."""
        peers, courier = self.node.peers, self.node.courier
        for entry in self.view:
            peers.add(entry.id, entry.address)
        if self._forgets:
            asked = None if self._asking is None else self._asking.id
            for peer in peers.learnt:
                if peer.id not in self.view and peer.id != asked:
                    peers.forget(peer.id)
        peers.sweep(courier.busy)

    # -- asking -----------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Shuffle where it is time."""
        if self._due is None:  # nodes that began together must not ask together
            self._due = now + self.period_s * self.rng.random() if len(self.view) else now
        if now >= self._due:
            self._due = now + self.period_s * (0.75 + 0.5 * self.rng.random())
            self._periods += 1
            self.view.grow_older()
            self._drop_gone()
            self._vouch()
            is_time = self._periods % OUTSIDE_EVERY == 0
            if (is_time or self._is_alone) and not self._is_outside:
                self._is_outside = True
                self.membership.spawn(self._ask_outside())
            self._ask_oldest()
        return self._due

    @property
    def _is_alone(self) -> bool:
        """Whether nobody in the view seems to be there."""
        known = self.node.peers.known
        return all(e.id in known and known[e.id].state not in THERE for e in self.view)

    async def leave(self) -> None:
        """Go without a word: entries of who is gone grow old."""

    def _ask_oldest(self) -> None:
        entry = self.view.oldest()
        if entry is None or self._asking is not None:
            return
        self._asking, asked_at = entry, self.node.time()
        self.view.remove(entry.id)
        sent = self._sample(self.length - 1)

        def answered(outcome: Outcome) -> None:
            self._asking = None
            answer = _answer_of(outcome, entry.id)
            if answer is not None:
                self.view.exchange(self._entries(answer), sent)
            peer = self.node.peers.known.get(entry.id)
            # By a model or a ping, though not in time: machines may be busy.
            is_heard = peer is not None and (peer.heard_at or 0.0) > asked_at
            if answer is not None or is_heard or _only_refuses(outcome, entry.id):
                self.view.add(replace(entry, age=0))
            elif not self.view and isinstance(outcome, Exception):
                self.view.add(entry)  # better than nobody: it is tried again now and then
            elif self._forgets:
                reason = outcome if isinstance(outcome, Exception) else "another node answers there"
                event(log, logging.DEBUG, "view.lost", peer=entry.id, reason=str(reason))
            self._keep_learnt()

        self.membership.ask(entry.address, WORD, self._frame(sent), TIMEOUT_S, answered)

    def _sample(self, count: int, asker: str = "") -> list[Entry]:
        """Return entries to hand on: of nobody who is thought to be gone, nor of the asker."""
        known = self.node.peers.known
        gone = {e.id for e in self.view if e.id in known and known[e.id].state not in THERE}
        return self.view.sample(count, without={*gone, asker})

    async def _ask_outside(self) -> None:
        """Ask somebody whom no view told of, one after the other until one answers."""
        node = self.node
        try:
            for address in await self._outside():
                found = await node.world.id_at(address, VOUCH_TIMEOUT_S)
                if found == node.id:
                    _remember(self._own, address)  # the name stands for this node, too
                if found in (None, node.id):
                    continue
                try:
                    receipt = await node.world.push(address, self._frame([]), TIMEOUT_S)
                except (NetworkError, PeerError) as error:
                    event(log, logging.DEBUG, "seed.silent", address=address, reason=str(error))
                    continue
                answer = receipt.message
                if answer is not None and (answer.kind, answer.control) == (Kind.VIEW, WORD):
                    self._found(address, answer)
                    return
        finally:
            self._is_outside = False

    def _found(self, address: str, answer: Message) -> None:
        """Take in who answered at ``address``, and whom it knows."""
        was_alone = not self.view
        at = answer.address if answer.address == address else address
        self.view.exchange(self._entries(answer), ())
        self.meet(answer.sender, at, hearsay=True)
        if was_alone and self.view:
            who = bounded(answer.sender)
            event(log, logging.INFO, "view.begun", peer=who, address=at, entries=len(self.view))

    async def _outside(self) -> list[str]:
        """Return addresses to ask, in random order, seeds before contacts; at most a few."""
        node = self.node
        seeds = list(await node.world.seeds())
        listed = [entry.address for entry in node.directory if entry.id != node.id]
        book = [] if self.membership.book is None else self.membership.book.newest()
        contacts = [contact.address for contact in book if contact.id not in self.view]
        found: dict[str, None] = {}
        for addresses in (seeds, contacts, listed if node.id not in node.directory.number else ()):
            for number in self.rng.permutation(len(addresses))[:OUTSIDE_EVERY]:
                found.setdefault(addresses[int(number)])
        return [one for one in found if one not in self._own and one != node.address]

    def _vouch(self) -> None:
        """Look whether those who spoke for themselves are where they said, a few at a time."""
        for entry in [entry for entry in self.view if not entry.vouched]:
            if entry.id not in self.view or entry.id in self._vouching:
                continue
            # Whoever was found there once may have gone, and left the address to another one.
            is_contested = len(self.view.at(entry.address)) > 1
            if (entry.id, entry.address) in self._reached and not is_contested:
                self.view.confirm(entry.id, entry.address)
            elif len(self._vouching) < VOUCHING_MAX:
                self._vouching.add(entry.id)
                if self.membership.spawn(self._look_at(entry)) is None:
                    self._vouching.discard(entry.id)  # not begun yet

    async def _look_at(self, entry: Entry) -> None:
        try:
            found = await self.node.world.id_at(entry.address, VOUCH_TIMEOUT_S)
        finally:
            self._vouching.discard(entry.id)
        if found == entry.id:
            self.view.confirm(entry.id, entry.address)
            self._keep_learnt()
            _remember(self._reached, (entry.id, entry.address))

    # -- answering --------------------------------------------------------------------------------

    async def _asked(self, message: Message) -> Frame:
        """Answer with entries of this view, and take those that came in their place."""
        answered = self._sample(self.length, message.sender)
        received = self._entries(message)
        address = message.address or ""
        if self._is_sound(message.sender, address):
            own = Entry(message.sender, address, epoch=message.epoch, vouched=False)
            received.insert(0, own)
        self.view.exchange(received, answered)
        self._vouch()
        self._keep_learnt()
        return self._frame([*answered, *self._listed(self.length - len(answered), message.sender)])

    def _listed(self, count: int, asker: str) -> list[Entry]:
        """Return up to ``count`` listed peers that live, at random: whoever joined has no list."""
        directory, peers = self.node.directory, self.node.peers
        if count <= 0 or not len(directory) or asker in directory.number:
            return []
        found: dict[str, Entry] = {}
        for number in self.rng.integers(len(directory), size=2 * count):
            entry = directory[int(number)]
            peer = peers.known.get(entry.id)
            if peer is not None and peer.state == "alive":
                found[entry.id] = Entry(entry.id, peer.address, epoch=peer.epoch)
        return list(found.values())[:count]

    def _frame(self, entries: Iterable[Entry]) -> Frame:
        rows = list(entries)[:MEMBERS_MAX]
        members = [Member(one.id, one.address, "alive", one.epoch, 0) for one in rows]
        ages = [one.age for one in rows]
        return self.membership.frame(WORD, members, kind=Kind.VIEW, ages=ages)

    def _entries(self, message: Message) -> list[Entry]:
        """Return the entries that a message tells of, without those that no view may have."""
        members = message.members[: self.length]
        ages = message.age if isinstance(message.age, tuple) else (message.age,) * len(members)
        return [
            Entry(one.id, one.address, age, one.epoch)
            for one, age in zip(members, ages, strict=False)
            if one.state == "alive" and self._is_sound(one.id, one.address)
        ]


def _remember(kept: dict[T, None], one: T) -> None:
    """Keep ``one``, and of more than ``VOUCHED_KEPT`` the newest."""
    kept[one] = None
    while len(kept) > VOUCHED_KEPT:
        del kept[next(iter(kept))]


@lru_cache(maxsize=4096)
def _could_be(peer_id: str, address: str, own: str) -> bool:
    """Whether a node may have that id and address; asked for the same ones all the time."""
    return re.fullmatch(ID_PATTERN, peer_id) is not None and is_address(address, own)


def _answer_of(outcome: Outcome, peer_id: str) -> Message | None:
    """Return the answer, if it is one of the peer that was asked."""
    message = outcome.message if isinstance(outcome, Receipt) else None
    if message is None or (message.kind, message.control) != (Kind.VIEW, WORD):
        return None
    return message if message.sender == peer_id else None


def _only_refuses(outcome: Outcome, peer_id: str) -> bool:
    """Whether the peer is there and knows no views, or has no time."""
    reply = outcome.reply if isinstance(outcome, Receipt) else None
    return (
        reply is not None
        and reply.sender == peer_id
        and reply.code in ("unsupported_message", "busy")
    )
