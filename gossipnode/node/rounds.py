"""A node's neighbours where the graph is another one each round.

Invariant: every answer is that of the sequence, which is the same on every node; what is kept
here only saves asking again. What the peers say of themselves may not enter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from math import fsum

from gossipnode.algorithms.base import Row
from gossipnode.node.directory import Directory
from gossipnode.topology import GraphSequence, lockstep

# A model is let in up to so many rounds before its own, which is so many sums of memory at worst;
# one that comes earlier still is asked to come again. Of random rounds on 3 to 8 nodes, one lead
# in a thousand is longer; of those that repeat, none below 512 nodes.
AHEAD_MAX = 8
# Models that may wait for one peer where rounds never repeat and lead one way. Measured on 3 to 8
# nodes, each one more is needed six times more rarely: past 16, once in 10^10.
WAITING_MAX = 16
# Nodes of one swarm that are further apart are not in lockstep, whatever the sequence: even in
# pairs drawn among three nodes, two miss each other so often with probability 10^-45.
FAR = 256
# Above this, finding the exact bounds takes a node longer than it may take to start.
EXACT_NODES_MAX = 1024
# Rounds whose row is kept: the one under way and those that models come for.
ROUNDS_KEPT = AHEAD_MAX + 4


class Rounds:
    """Node ``index`` of ``directory`` in a sequence: whom it sends to, and its rows of W.

    ``lead_max`` is by how many rounds a model may be early, ``room`` how many models may wait for
    each peer, ``senders`` who may ever send here; ``ever`` whom this node sends to in any round,
    nobody where rounds never repeat.
    """

    def __init__(self, sequence: GraphSequence, directory: Directory, index: int) -> None:
        self.sequence, self.directory, self.index = sequence, directory, index
        self._kept: OrderedDict[int, tuple[Row, tuple[str, ...]]] = OrderedDict()
        self.lead_max = AHEAD_MAX
        # Two-way rounds: who sends to j hears from j in the same round, so that one model at most
        # waits behind the one on its way.
        room = 2 if sequence.symmetric else WAITING_MAX
        self.senders: Collection[str] = directory.number
        self.room: Mapping[str, int] = dict.fromkeys(directory.ids, room)
        self.ever: tuple[str, ...] = ()
        if sequence.period is not None:
            self._bound_period(sequence.period)

    def _bound_period(self, period: int) -> None:
        """Find out who ever talks to whom, and by how much they can be apart."""
        sequence, i, ids = self.sequence, self.index, self.directory.ids
        rounds = [sequence.at(k) for k in range(period)]
        self.senders = {ids[j] for mixing in rounds for j in mixing.row(i)[1]}
        ever = sorted({j for mixing in rounds for j in mixing.receivers_of(i)})
        self.ever = tuple(ids[j] for j in ever)
        self.room = {peer: self.room[peer] for peer in self.ever}
        if sequence.nodes <= EXACT_NODES_MAX:
            self.lead_max = lockstep.lead_max(sequence, i, AHEAD_MAX)
            waiting = lockstep.waiting_max(sequence, i, WAITING_MAX)
            self.room = {ids[j]: count for j, count in waiting.items()}

    def row(self, k: int) -> Row:
        """Return row i of W in round ``k`` >= 0."""
        return self._at(k)[0]

    def out_neighbours(self, k: int) -> tuple[str, ...]:
        """Return whom this node sends to in round ``k`` >= 0."""
        return self._at(k)[1]

    def shares(self, k: int) -> Mapping[str, float]:
        """Return what this node hands to each that it sends to in round ``k`` >= 0.

        Column i of W, divided by its sum where that is not one anyway.
        """
        kept, shares = self.sequence.at(k).column(self.index)
        whole = 1.0 if self.sequence.doubly_stochastic else kept + fsum(shares.values())
        return {self.directory.ids[j]: share / whole for j, share in shares.items()}

    def was_passed(self, peer: str, m: int, k: int) -> bool:
        """Tell whether ``peer`` in round ``m`` shows that this node, in ``k``, was not waited for.

        Twice ``lead_max`` rounds are nobody's fault: where nodes have died, the ways between the
        others are longer than the sequence says.
        """
        if m - k <= 2 * self.lead_max:
            return False
        j = self.directory.number[peer]
        return m - k > FAR or lockstep.proves(self.sequence, j, m, self.index, k + 1)

    def was_there(self, peer: str, k: int, since: int) -> bool:
        """Tell whether this node in ``k`` shows that ``peer`` has been in ``since`` or later."""
        j, since = self.directory.number[peer], max(since, k - FAR)
        return k > since and lockstep.proves(self.sequence, self.index, k, j, since)

    def _at(self, k: int) -> tuple[Row, tuple[str, ...]]:
        period, ids = self.sequence.period, self.directory.ids
        place = k if period is None else k % period
        found = self._kept.get(place)
        if found is None:
            mixing = self.sequence.at(k)
            self_weight, weights = mixing.row(self.index)
            row = Row(self_weight, {ids[j]: w for j, w in weights.items()})
            found = row, tuple(ids[j] for j in mixing.receivers_of(self.index))
            self._kept[place] = found
            if len(self._kept) > ROUNDS_KEPT:
                self._kept.popitem(last=False)
        return found
