"""A partial view: the few peers of a large swarm that one node knows, exchanged all the time.

Cyclon's enhanced shuffling. Every period a node

1. makes all c entries older by 1 and chooses the oldest, q;
2. sends q itself with age 0 in place of q, and l − 1 others that it chooses at random;
3. gets at most l entries that q chooses at random;
4. takes those that it has not: into free places first, then in place of those that it sent.

q does the same with what it got, in place of what it answered. So entries move and are hardly ever
copied: each node is in some c views, its entry there is rarely older than c periods, and that of a
node that is gone is asked, and removed, as the oldest.

Invariant: never more than c entries, never the node itself, no id twice, and of those that are
handed on no address twice; nobody is told of an address that no node has reached. Network, clock
and global randomness may not enter.

*Source*: Voulgaris, Gavidia, van Steen, J. Network and Systems Management 13(2), 2005, sections 2.3
(enhanced shuffling) and 2.4. *Differs from the source*: q comes back where places stay free, or two
nodes would forget each other; a newcomer begins with a view and makes no random walks; an entry
that its node told itself waits to be ``vouched`` for before it is handed on.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Entry:
    """One peer in a view; ``age`` counts shuffles since the peer said itself that it is there.

    ``vouched`` is whether a node has reached the peer at ``address``, this one or one before.
    """

    id: str
    address: str
    age: int = 0
    epoch: int = 0
    vouched: bool = True

    def copy(self) -> Entry:
        """Return the same entry, to grow older by itself."""
        return Entry(self.id, self.address, self.age, self.epoch, self.vouched)


class PartialView:
    """The view of node ``own_id``: at most ``size`` ≥ 1 entries, chosen from by ``rng``."""

    def __init__(self, own_id: str, size: int, rng: np.random.Generator) -> None:
        assert size >= 1, "a view has room for somebody"
        self.own_id, self.size, self._rng = own_id, size, rng
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, peer_id: str) -> Entry:
        return self._entries[peer_id]

    @property
    def is_full(self) -> bool:
        """Whether there is no free place."""
        return len(self._entries) >= self.size

    def add(self, entry: Entry) -> bool:
        """Take an entry if there is a free place for it; whether it is in now.

        Of one that is in already the younger age counts. What its node told itself (not
        ``vouched``) brings its address along, and casts doubt on whoever is said to be there;
        hearsay moves nobody, and takes nobody's address.
        """
        known, holders = self._entries.get(entry.id), self.at(entry.address)
        if entry.id == self.own_id:
            return False
        if known is not None and (entry.vouched or known in holders):
            known.age, known.epoch = min(known.age, entry.age), max(known.epoch, entry.epoch)
            known.vouched |= entry.vouched and holders == [known]
            return True
        if holders and entry.vouched:
            return False
        if known is None and self.is_full:
            return False
        for holder in holders:
            holder.vouched = False
        self._entries[entry.id] = entry.copy()
        return True

    def confirm(self, peer_id: str, address: str) -> None:
        """Vouch for a peer that was found at ``address``; nobody else is there."""
        for entry in self.at(address):
            if entry.id == peer_id:
                entry.vouched = True
            else:
                del self._entries[entry.id]

    def at(self, address: str) -> list[Entry]:
        """Return those who are said to be at ``address``: of more than one, one is."""
        return [entry for entry in self if entry.address == address]

    def remove(self, peer_id: str) -> None:
        """Forget a peer; harmless where none is known by that id."""
        self._entries.pop(peer_id, None)

    def grow_older(self) -> None:
        """Let a period pass."""
        for entry in self:
            entry.age += 1

    def oldest(self) -> Entry | None:
        """Return the entry to ask next: that heard of longest ago."""
        return max(self, key=lambda entry: entry.age, default=None)

    def sample(self, count: int, without: Container[str] = ()) -> list[Entry]:
        """Return copies of at most ``count`` entries to hand on, at random, but ``without`` ids."""
        known = [entry for entry in self if entry.vouched and entry.id not in without]
        chosen = self._rng.permutation(len(known))[:count]
        return [known[int(number)].copy() for number in chosen]

    def exchange(self, received: Iterable[Entry], sent: Iterable[Entry]) -> None:
        """Take what was ``received``: into free places, then in place of what was ``sent``."""
        places = (entry.id for entry in sent)
        for entry in received:
            is_new = entry.id not in self and entry.id != self.own_id
            if is_new and self.is_full and not (entry.vouched and self.at(entry.address)):
                place = next((peer_id for peer_id in places if peer_id in self), None)
                if place is None:
                    continue
                self.remove(place)
            self.add(entry)
