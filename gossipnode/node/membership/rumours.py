"""What is said about nodes: which of two rows counts, and what is to be passed on.

Invariant: an older (epoch, incarnation) never takes the place of a newer one, whatever is said in
which order; a row is passed on a bounded number of times. Pure: no clock, no network.

*Source*: Das, Gupta, Motivala, DSN 2002, section 4.1 (piggybacked, each λ log n times). *Differs
from the source*: down is not for ever, since a process that stood still comes back with the epoch
that it had; and the newest rows go first, not those told least.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gossipnode.wire.members import Member, MemberState

# λ: of n nodes, e^-λ n miss a rumour that each who hears it passes on λ ln n times.
TOLD_FACTOR = 3.0
# So many rows in one message: some 400 bytes. Of 16 machines that fail at once two messages tell.
ROWS_MAX = 8
# Rows that wait: more are of a swarm that breaks, where the newest tell enough.
WAITING_MAX = 256

RANK: dict[MemberState, int] = {"alive": 0, "suspect": 1, "down": 2, "left": 3}


def newness(row: Member) -> tuple[int, int, int]:
    """Return what rows of one node are compared by; the greater one counts."""
    return row.epoch, row.incarnation, RANK[row.state]


def times_told(nodes: int) -> int:
    """Return how often each node passes a row on in a swarm of ``nodes``.

    >>> times_told(2), times_told(16), times_told(1000)
    (4, 9, 21)
    """
    return math.ceil(TOLD_FACTOR * math.log(max(nodes, 1) + 1))


class Rumours:
    """The rows to pass on, one a node, the newest last."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[Member, int]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[Member]:
        return (row for row, _ in self._left.values())

    def of(self, node_id: str) -> Member | None:
        """Return what is being said of a node."""
        entry = self._left.get(node_id)
        return entry[0] if entry is not None else None

    def tell(self, row: Member, nodes: int) -> bool:
        """Pass ``row`` on; False, and nothing changes, where as new a row of that node waits."""
        old = self.of(row.id)
        if old is not None and newness(old) >= newness(row):
            return False
        self._left.pop(row.id, None)
        self._left[row.id] = row, times_told(nodes)
        while len(self._left) > WAITING_MAX:
            del self._left[next(iter(self._left))]
        return True

    def drop(self, node_id: str) -> None:
        """Say no more of a node."""
        self._left.pop(node_id, None)

    def pick(self, limit: int = ROWS_MAX) -> list[Member]:
        """Return at most ``limit`` rows for one message, the newest first, and count them."""
        picked: list[Member] = []
        for node_id in reversed(list(self._left)[-limit:]):
            row, left = self._left[node_id]
            picked.append(row)
            if left > 1:
                self._left[node_id] = row, left - 1
            else:
                del self._left[node_id]
        return picked
