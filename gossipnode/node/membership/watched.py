"""Whom a node asks, and in which order: its neighbours, and a bounded number of others.

Invariant: everybody on the list is asked once before anybody is asked again, so a crash is met
within one round, whatever the draws.

*Source*: Das, Gupta, Motivala, DSN 2002, section 4.3 (round robin of a list that is shuffled anew
after each round).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gossipnode.node.peers import Peer

if TYPE_CHECKING:
    from gossipnode.node.node import Node

# Beside the neighbours. Each node of a large swarm is on the lists of 32 others in the mean, and on
# none with a chance of e^-32; a round of 32 takes 16 s, and 32 lanes cost as much as 32 gossips.
OTHERS_MAX = 32


class Watched:
    """The peers that ``node`` asks."""

    def __init__(self, node: Node, rng: np.random.Generator) -> None:
        self._node, self._rng = node, rng
        self._is_fixed = node.algorithm.needs_graph
        self._others: dict[str, None] = {}
        self._order: list[str] = []

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._node.neighbours or peer_id in self._others

    def next_round(self) -> bool:
        """Take in who has come to be known; whether a round begins now."""
        if self._order:
            return False
        table, neighbours = self._node.peers, self._node.neighbours
        self._others = {j: None for j in self._others if j in table}
        for peer_id in table.some(self._rng, 2 * OTHERS_MAX):
            if len(self._others) >= OTHERS_MAX:
                break
            if peer_id not in neighbours:
                self._others[peer_id] = None
        order = [*neighbours, *self._others]
        self._order = [order[int(number)] for number in self._rng.permutation(len(order))]
        return True

    def draw(self) -> Peer | None:
        """Return the next peer of the round that is one to ask; None at the end of the round.

        On a fixed graph one that was never heard of may still be starting, and its first model is
        waited for; elsewhere somebody has to say the first word.
        """
        table = self._node.peers
        while self._order:
            peer_id = self._order.pop()
            peer = table.get(peer_id) if peer_id in table else None
            if peer is not None and (peer.state != "unknown" or not self._is_fixed):
                return peer
        return None
