"""Who is out there, since when silent, and whom to wait for.

Invariant: a peer is *unknown* until first heard of, then *alive* or *suspect*; *down* where a
suspicion has stood, *left* where it said so itself. None of the last three is ever waited for, and
one message from it makes it alive again. Knows no network: times are the loop's, handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import numpy as np

from gossipnode.config import PeerEntry
from gossipnode.logs import event
from gossipnode.node.directory import Directory
from gossipnode.topology import PeerSampler

PeerState = Literal["unknown", "alive", "suspect", "down", "left"]
# Who is not waited for; and who gets no models either, not even to see whether it is back.
ABSENT: frozenset[PeerState] = frozenset({"suspect", "down", "left"})
GONE: frozenset[PeerState] = frozenset({"down", "left"})

log = logging.getLogger("gossipnode.node")

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
DRAWS_MAX = 16
# Listed peers of which more is remembered than the list says, where any may be pushed to.
PEERS_KEPT = 4096
# Rounds by which a peer may be ahead of what it said last; more it has to say twice.
LEAP_MAX = 16
# No swarm gets here by counting. Of what a message can hold it is half, so that nodes that were led
# here can go on; beyond, nobody is believed who is more than ``SLACK`` ahead.
ROUND_MAX = 2**62
SLACK = 2**20


@dataclass(slots=True)
class Peer:
    """One peer. ``heard_at`` and ``retry_at`` are loop times in seconds.

    ``listed`` peers are in the peer list: no message changes where they are dialled. ``sending``
    is set while something is on its way to it; ``received_before`` are the pushes that had been
    received from it when that was sent. ``since`` is when the state began. ``epoch`` is what the
    peer itself told, ``said`` the newest (epoch, incarnation) that anybody did, and ``over`` the
    last life of which it told that it ends.
    """

    id: str
    address: str
    state: PeerState = "unknown"
    reason: str = ""
    since: float | None = None
    epoch: int = 0
    said: tuple[int, int] = (0, 0)
    over: int = -1
    round: int = -1
    age: int = 0
    heard_at: float | None = None
    retry_at: float = 0.0
    failures: int = 0
    pushes_sent: int = 0
    pushes_received: int = 0
    refusal: str = ""
    refused_here: str = ""
    listed: bool = False
    sending: bool = False
    leap: int = -1
    received_before: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether the peer has said goodbye for good: what comes late of that life is no sign."""
        return self.state == "left" and self.over >= self.epoch

    def tell_round(self, round_: int) -> None:
        """Take the peer's word for its round, but for a leap only when it says so twice.

        One absurd number, from a bug or a flipped bit, must not make this node skip rounds.
        """
        if is_absurd(round_, self.round):
            return
        if self.round < 0 or round_ <= self.round + LEAP_MAX or abs(round_ - self.leap) <= LEAP_MAX:
            self.round = round_
        self.leap = round_


class Records(dict[str, Peer]):
    """What is known of peers; of a listed one a record is made when it is asked for by key."""

    def __init__(self, meet: Callable[[str], Peer | None]) -> None:
        self._meet = meet

    def __missing__(self, peer_id: str) -> Peer:
        peer = self._meet(peer_id)
        if peer is None:
            raise KeyError(peer_id)
        return peer


class PeerTable:
    """All peers of this node, without the node itself.

    Those of ``directory`` are there from the beginning, and cost memory only once something is
    known about them; ``limit`` bounds those that are learnt besides, of whom a record stays until
    ``forget``, or as long as something is on its way to them. Of more than ``kept`` listed
    ones, if that is given, the one met first is forgotten unless it is suspect or gone: it is then
    unknown again, and just as likely to be chosen. ``known`` are the records by id; ``alive``,
    ``suspects`` and ``gone`` say how many of them are, the last of them down or left. ``troubled``
    are the ids of those that are suspect or down, cannot be reached, refuse pushes or had one
    refused, the oldest trouble first.
    """

    def __init__(
        self,
        limit: int,
        directory: Directory | None = None,
        own_id: str = "",
        kept: int | None = None,
    ) -> None:
        self.limit, self.own_id, self.kept = limit, own_id, kept
        self.directory = directory or Directory()
        self.known = Records(self._meet)
        self.alive = self.suspects = 0
        self.gone: dict[PeerState, int] = dict.fromkeys(("down", "left"), 0)
        self.troubled: dict[str, None] = {}
        self._learnt: list[str] = []
        self._leaving: dict[str, None] = {}  # no peers any more, but something is on its way

    def __getitem__(self, peer_id: str) -> Peer:
        return self.known[peer_id]

    def __contains__(self, peer_id: str) -> bool:
        return (peer_id in self.known and peer_id not in self._leaving) or (
            peer_id in self.directory.number and peer_id != self.own_id
        )

    def __iter__(self) -> Iterator[Peer]:
        # Who looks must change nothing: of whom nothing is known a record is made, and not kept.
        return map(self._look_at, self._ids())

    def __len__(self) -> int:
        return len(self.directory) - (self.own_id in self.directory.number) + len(self._learnt)

    def get(self, peer_id: str) -> Peer | None:
        """Return the peer, or None."""
        return self.known.get(peer_id) or self._meet(peer_id)

    def _meet(self, peer_id: str) -> Peer | None:
        """Return a record of a listed peer, of whom nothing was known."""
        number = self.directory.number.get(peer_id)
        if number is None or peer_id == self.own_id:
            return None
        listed = len(self.known) - len(self._learnt) - len(self._leaving)
        if self.kept is not None and listed >= self.kept:
            self._forget_one()
        peer = self.known[peer_id] = _listed(self.directory.entries[number])
        return peer

    def _forget_one(self) -> None:
        first: Peer | None = None
        for peer in self.known.values():
            if peer.listed and not peer.sending:
                first = first or peer
                if peer.state not in ABSENT:
                    first = peer
                    break
        if first is not None:
            self.mark(first, "unknown")
            self.troubled.pop(first.id, None)
            del self.known[first.id]

    def add(self, peer_id: str, address: str) -> Peer | None:
        """Add a peer or, unless it is listed, update its address; None where the table is full."""
        peer = self.get(peer_id)
        if peer is None or peer_id in self._leaving:
            if len(self._learnt) >= self.limit or peer_id == self.own_id:
                return None
            self._learnt.append(peer_id)
            if peer is None:
                peer = self.known[peer_id] = Peer(peer_id, address)
            else:
                del self._leaving[peer_id]
                state, peer.state = peer.state, "unknown"  # counted anew
                self.mark(peer, state)
        if not peer.listed:
            peer.address = address
        return peer

    def forget(self, peer_id: str) -> None:
        """Choose a learnt peer no more; its record goes with ``sweep``. Others are left alone."""
        peer = self.known.get(peer_id)
        if peer is None or peer.listed or peer_id in self._leaving:
            return
        state = peer.state
        self.mark(peer, "unknown")
        self.troubled.pop(peer_id, None)
        self._learnt.remove(peer_id)
        self._leaving[peer_id] = None
        peer.state = state  # whoever still sends to it goes on with that

    def sweep(self, busy: Container[str]) -> None:
        """Give back the records of those that were forgotten, but for the ``busy`` ones."""
        for peer_id in [peer_id for peer_id in self._leaving if peer_id not in busy]:
            del self._leaving[peer_id], self.known[peer_id]

    @property
    def learnt(self) -> list[Peer]:
        """The peers that are not in the directory."""
        return [self.known[peer_id] for peer_id in self._learnt]

    @property
    def states(self) -> dict[PeerState, int]:
        """How many peers are in each state."""
        met: dict[PeerState, int] = {"alive": self.alive, "suspect": self.suspects, **self.gone}
        return {**met, "unknown": len(self) - sum(met.values())}

    def first(self, neighbours: Iterable[str], limit: int) -> list[Peer]:
        """Return at most ``limit`` peers, those that people look for first, in the list's order.

        The neighbours and those in trouble, none of which can crowd out the other, then those of
        whom most is known. It looks at some ``limit`` peers, however many there are.
        """
        if len(self) <= limit:
            return list(self)
        known = (peer_id for peer_id in self.known if peer_id not in self._leaving)
        sources = islice(self.troubled, limit // 2), neighbours, self.troubled, known
        chosen: dict[str, None] = {}
        for peer_id in chain(*sources, self._ids()):
            chosen[peer_id] = None
            if len(chosen) == limit:
                break
        last = len(self.directory)
        return [
            self._look_at(peer_id)
            for peer_id in sorted(chosen, key=lambda name: self.directory.number.get(name, last))
        ]

    def page(self, after: str, limit: int) -> list[Peer]:
        """Return the next ``limit`` peers of the list behind ``after``, "" for the first ones.

        Raises ``KeyError`` where ``after`` is none.
        """
        return list(map(self._look_at, islice(self._ids(self._position_behind(after)), limit)))

    def _position_behind(self, peer_id: str) -> int:
        if not peer_id:
            return 0
        if peer_id not in self:
            raise KeyError(peer_id)
        number = self.directory.number.get(peer_id)
        here = len(self.directory) + self._learnt.index(peer_id) if number is None else number
        return here + 1

    def _ids(self, start: int = 0) -> Iterator[str]:
        """Yield the ids from the ``start``-th place on: the listed ones, then those learnt."""
        listed = len(self.directory)
        for number in range(start, listed):
            peer_id = self.directory.ids[number]
            if peer_id != self.own_id:
                yield peer_id
        for number in range(max(start - listed, 0), len(self._learnt)):
            yield self._learnt[number]

    def _look_at(self, peer_id: str) -> Peer:
        """Return the peer; of whom nothing is known a record is made, and not kept.

        Who looks must change nothing.
        """
        known = self.known.get(peer_id)
        return known or _listed(self.directory.entries[self.directory.number[peer_id]])

    def mark(self, peer: Peer, state: PeerState) -> None:
        """Change the state of a peer of this table."""
        if peer.id in self._leaving:
            peer.state = state
            return
        self.alive += (state == "alive") - (peer.state == "alive")
        self.suspects += (state == "suspect") - (peer.state == "suspect")
        if GONE & {state, peer.state}:
            for one in GONE:
                self.gone[one] += (state == one) - (peer.state == one)
        peer.state = state
        self.note_trouble(peer)

    def note_trouble(self, peer: Peer) -> None:
        """Keep account of whether a peer is troubled; call when its texts have changed."""
        if peer.id in self._leaving:
            return
        if peer.state in ("suspect", "down") or peer.reason or peer.refusal or peer.refused_here:
            self.troubled.setdefault(peer.id)
        elif self.troubled:
            self.troubled.pop(peer.id, None)

    def heard(self, peer: Peer, now: float, *, epoch: int = 0) -> None:
        """A message or an answer came from ``peer``."""
        if epoch > peer.epoch:
            peer.epoch = epoch
        if peer.has_ended:
            return
        if peer.state in ABSENT:
            event(log, logging.INFO, "peer.returned", peer=peer.id, was=peer.state)
            peer.since = now
        peer.heard_at, peer.failures, peer.retry_at = now, 0, 0.0
        peer.reason = ""
        if peer.state != "alive" or self.troubled:
            self.mark(peer, "alive")

    def failed(self, peer: Peer, now: float, spread: float) -> float:
        """A push failed: return the seconds to wait before the next try.

        ``spread`` in [0, 1) is random: peers that failed together must not come back together.
        """
        peer.failures += 1
        pause = min(BACKOFF_FIRST_S * 2.0 ** min(peer.failures - 1, 16), BACKOFF_MAX_S)
        pause *= 0.5 + spread / 2
        peer.retry_at = now + pause
        return pause

    def candidates(self, among: Iterable[str] | None, now: float) -> list[str]:
        """Return whom a push may go to: not gone, and not suspect unless due for another try.

        ``among`` restricts the choice; None means everybody.
        """
        return [peer_id for peer_id in among or self._ids() if self._may_try(peer_id, now)]

    def choose(self, rng: np.random.Generator, among: Sequence[str], now: float) -> str | None:
        """Choose one of the candidates uniformly; of everybody where ``among`` is empty.

        Draws until it meets a candidate: with few suspects that is one draw, whatever the number
        of peers. Only where it keeps missing does it look at all of them.
        """
        listed = len(self.directory.ids)
        everybody = listed + len(self._learnt)
        for _ in range(DRAWS_MAX if everybody else 0):
            if among:
                peer_id = among[int(rng.integers(len(among)))]
            else:
                number = int(rng.integers(everybody))
                here = number < listed
                peer_id = self.directory.ids[number] if here else self._learnt[number - listed]
            if peer_id == self.own_id:
                continue
            peer = self.known.get(peer_id)
            if peer is None or peer.state not in ABSENT or self._may_try(peer_id, now):
                return peer_id
        return PeerSampler(rng).sample(self.candidates(among or None, now))

    def some(self, rng: np.random.Generator, most: int) -> list[str]:
        """Return the ids of ``most`` peers drawn at random; of all, shuffled, where few more are.

        Of a crowd the draws are independent, so that some may come twice.
        """
        listed, everybody = len(self.directory.ids), len(self.directory.ids) + len(self._learnt)
        if everybody <= 2 * most:
            numbers = rng.permutation(everybody)
        else:
            numbers = rng.integers(everybody, size=most)
        ids = self.directory.ids
        drawn = [ids[n] if n < listed else self._learnt[n - listed] for n in numbers.tolist()]
        return [peer_id for peer_id in drawn if peer_id != self.own_id]

    def _may_try(self, peer_id: str, now: float) -> bool:
        peer = self.known.get(peer_id)
        if peer is None or peer.state not in ABSENT:
            return True
        return peer.state == "suspect" and peer.retry_at <= now


def is_absurd(round_: int, known: int) -> bool:
    """Whether nobody can be in ``round_``, as far as who is in ``known`` can tell."""
    return round_ > max(ROUND_MAX, known + SLACK)


def _listed(entry: PeerEntry) -> Peer:
    return Peer(entry.id, entry.address, listed=True)
