"""How far apart rounds can be while every node waits for the models that its row of W asks for.

Node j enters round m when it has closed m − 1, for which everybody who sends to j in round m − 1
has entered m − 1; for which, one round back, everybody who sends to *them*; and so on. So j in
round m proves that certain nodes have been in certain rounds, and the more rounds back, the more
nodes, until it is all of them. Whoever is behind what is proved was not waited for.

Invariant: nothing here is a guess; each answer follows from W of the rounds in question. Clocks
and models may not enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gossipnode.topology.mixing import Mixing

if TYPE_CHECKING:
    from gossipnode.topology.sequences import GraphSequence


def proves(sequence: GraphSequence, j: int, m: int, i: int, r: int) -> bool:
    """Tell whether node ``j`` in round ``m`` proves that ``i`` has been in round ``r``.

    Looks at rounds r to m − 1, in O(edges) each; stops as soon as it knows.
    """
    if j == i:
        return m >= r
    there = _only(sequence.nodes, j)
    for k in range(m - 1, r - 1, -1):
        _add_senders(there, sequence.at(k))
        if there[i]:
            return True
    return False


def lead_max(sequence: GraphSequence, i: int, limit: int) -> int:
    """Return by how many rounds one that sends to ``i`` can be ahead of it as it does, >= 1.

    At most ``limit``; that is also the answer where rounds do not repeat, since then chance may
    keep two nodes from hearing of each other for as long as you like.
    """
    if sequence.period is None:
        return limit
    lead = 1
    for k in range(sequence.period):
        # Rounds that lie far enough from the first one for all that may precede them.
        m = k + sequence.period * limit
        for j in sequence.at(m).row(i)[1]:
            lead = max(lead, _way(sequence, j, m, i, limit))
    return lead


def waiting_max(sequence: GraphSequence, i: int, limit: int) -> dict[int, int]:
    """Return, for each that ``i`` sends to, how many models can wait for it, all of them wanted.

    While one is on its way to j, ``i`` can close further rounds: as many as lie between two
    proofs that j has been there. Counted are those in which it sends to j, and the one that is
    on its way. At most ``limit`` each. For sequences that repeat.
    """
    assert sequence.period is not None
    found: dict[int, int] = {}
    for k in range(sequence.period):
        m = k + sequence.period * limit
        for j in sequence.at(m).receivers_of(i):
            lead = _way(sequence, i, m, j, limit)
            rounds = range(m - lead + 1, m + 1)
            waiting = sum(j in sequence.at(q).receivers_of(i) for q in rounds)
            found[j] = max(found.get(j, 0), min(1 + waiting, limit))
    return found


def _way(sequence: GraphSequence, j: int, m: int, i: int, limit: int) -> int:
    """Return by how many rounds ``j``, in round ``m``, can be ahead of ``i``; at most ``limit``."""
    there = _only(sequence.nodes, j)
    for back in range(1, limit):
        _add_senders(there, sequence.at(m - back))
        if there[i]:
            return back
    return limit


def _only(nodes: int, j: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    there = np.zeros(nodes, dtype=bool)
    there[j] = True
    return there


def _add_senders(there: np.ndarray[tuple[int], np.dtype[np.bool_]], mixing: Mixing) -> None:
    """Add everybody who sends to one who is there."""
    there[mixing.senders[there[mixing.receivers]]] = True
