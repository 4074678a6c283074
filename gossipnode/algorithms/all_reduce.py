"""All-reduce: the mean of one vector over all nodes, the same bits on every node.

With x_i cut in n chunks and n nodes in the order of the peer list::

    ring    for s = 0 … 2(n − 1) − 1, node i: send chunk (i − s) mod n to node i + 1,
            and of chunk c = (i − s − 1) mod n, which comes from node i − 1:
                S_c ← S_c + x_i,c       while s < n − 1: the sum goes round and grows
                S_c is done             after that: it goes round as it is
    naive   each sends x_i to all, and each adds up Σ_j x_j, j in the order of the list
    server  each sends x_i to the hub; the hub adds up as above and sends the mean to all

Of d values a node of the ring sends 2(n − 1)/n·d, in 2(n − 1) messages, the swarm 2n(n − 1);
naive sends n(n − 1) messages of d, server 2(n − 1), all of them by or to the hub.

A ring or a hub is as good as its weakest member, hence: *whoever misses anything sends its own
x_i to all, and whoever gets such a message does so, too.* So the round ends naive, for all, with
the mean of those that are there; the next begins so as long as anybody is suspected. Of nodes that
had finished nothing comes: who is left then takes the mean of those that are left, or keeps its
own x. There is no vote: a loss at the very end can leave the nodes with different means, until the
next all-reduce. Nobody waits longer than three deadlines.

A round may have several all-reduces, one after the other: each has a run of phases of its own, and
they share one mailbox, so that who is in a later one is known to be past the earlier.

Letters: x half-step, S_c sum of chunk c. Round the ring sums of float16 or bfloat16 are rounded at
every node; elsewhere once. Memory: ring one model more; naive n (the
order of adding up is the list's, not that of arrival), server n at the hub.

*Source*: Patarasu, Yuan 2009 (ring); Li et al. 2014 (parameter server).
*Differs from the source*: deadlines, and what is done about those that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import ALL, Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.mailbox import ANY_LEAD, Mailbox
from gossipnode.algorithms.vectors import narrowed
from gossipnode.errors import ConfigError, PeerError
from gossipnode.learning.params import all_finite

Form = Literal["ring", "naive", "server"]
# The phase, after all others, in which everybody sends to everybody.
EVERYBODY = 255
# The ring's 2(n − 1) steps are phases before that.
RING_MAX = 128
TO_HUB, FROM_HUB = 0, 1
# Messages that wait for one peer: on a ring all that can be ahead of it, else a whole vector to
# each of hub and everybody, and one of the algorithm's own.
ROOM = {"ring": RING_MAX, "naive": 3, "server": 3}


@dataclass(slots=True)
class Mean:
    """What came of it: the mean, of how many nodes, and the means of the numbers sent along."""

    vector: Vector
    count: int
    numbers: dict[str, float] = field(default_factory=dict)


class AllReduce:
    """One node's part in the all-reduces of one algorithm, which hands it what has role ``sum``.

    Its phases are ``first`` to ``everybody``, the one in which everybody sends to everybody; what
    is reduced has ``size`` elements, or is a model. With ``stands_for`` those stand for so many of
    a model, and what they save is counted.
    """

    def __init__(
        self,
        options: LockstepOptions,
        form: Form,
        hub: str = "",
        *,
        first: int = 0,
        everybody: int = EVERYBODY,
        mailbox: Mailbox | None = None,
    ) -> None:
        self.deadline_s = options.deadline_s
        self.form, self.hub = form, hub
        self.first, self.last = first, everybody
        self.mailbox = Mailbox(options, room=3) if mailbox is None else mailbox
        self.size: int | None = None
        self.stands_for: int | None = None
        self.formed = -1  # the last round that was reduced in this form
        self.given_up = -1  # the last round that cannot be, as its algorithm has heard elsewhere

    @property
    def ring_max(self) -> int:
        """Return how many nodes a ring may have: all its steps are phases before the last."""
        return (self.last - self.first) // 2 + 1

    async def mean(
        self, node: NodeInterface, k: int, x: Vector, numbers: Mapping[str, float] | None = None
    ) -> Mean:
        """Return the mean of x, shape (d,), over the nodes that take part in round ``k``.

        Raises ``ConfigError`` where the peer list is too long for a ring, or has no such hub.
        """
        self.mailbox.skip(node, (k, self.first))
        others = [j for j in node.ids if j != node.id]
        whole = self.is_whole(node) and not self.is_broken(k)
        found = None
        if others and whole and self.form == "ring":
            found = await self.around(node, k, x, numbers or {})
        elif others and whole and self.form == "server":
            found = await self.through_hub(node, k, x, numbers or {}, others)
        if found is not None:
            self.formed = k
        else:
            if self.form != "naive" and others:
                node.count("fallbacks")
            found = await self.everybody(node, k, x, numbers or {}, others)
        if found.count == node.nodes:
            # All have taken part. Whom this node has no messages of, as on a ring, it would else
            # wait for as long as for one that is yet to start, when it is gone.
            for j in others:
                if node.is_unknown(j):
                    node.vouch_for(j)
        return found

    def is_whole(self, node: NodeInterface) -> bool:
        """Whether all are there that the form needs: everybody on the ring, else the hub."""
        if self.form == "ring" and node.nodes > self.ring_max:
            raise ConfigError(
                f"{node.nodes} nodes are too many for a ring: its steps are counted up to "
                f"{2 * self.ring_max - 3}",
                key="algorithm",
                allowed=f"form server or naive, or at most {self.ring_max} nodes",
            )
        needed = node.ids if self.form == "ring" else (self.hub_of(node),)
        return all(j == node.id or node.is_expected(j) for j in needed)

    def is_broken(self, k: int) -> bool:
        """Whether somebody sends to everybody in round ``k``, or will have to."""
        return self.given_up == k or self.mailbox.has((k, self.last))

    def give_up(self, k: int) -> None:
        """Hear that some have not got as far as this all-reduce of round ``k``, and wait for us."""
        self.given_up = k
        self.interrupt(k)

    def interrupt(self, k: int) -> None:
        """End the wait for anything of round ``k`` but what is sent to everybody."""
        waiting = self.mailbox.waiting
        if waiting is not None and (k, self.first) <= waiting.beat < (k, self.last):
            self.mailbox.interrupt()

    def hub_of(self, node: NodeInterface) -> str:
        """Return the hub's name: the first of the peer list, unless another one is named."""
        return hub_of(node, self.hub)

    async def around(
        self, node: NodeInterface, k: int, x: Vector, numbers: Mapping[str, float]
    ) -> Mean | None:
        """Reduce round the ring; None where something was missing."""
        n, i = node.nodes, node.ids.index(node.id)
        before, after = node.ids[i - 1], node.ids[(i + 1) % n]
        edges = edges_of(x.size, n)
        S, sums = [x[a:b] for a, b in pairwise(edges)], dict(numbers)
        until = 0.0
        for s in range(2 * (n - 1)):
            out, c = (i - s) % n, (i - s - 1) % n
            if S[out].size:  # with more nodes than values, some chunks are empty
                # The last chunk is never empty, so the numbers go with it.
                also = sums if out == n - 1 else None
                index = {"kind": "range", "start": edges[out], "stop": edges[out + 1]}
                self.push(node, [after], S[out], also, self.first + s, index)
            if not S[c].size:
                continue
            # In step 0 who is late is to blame; later it may wait for somebody itself.
            first = until == 0.0
            within = None if first else until - node.time()
            beat = (k, self.first + s)
            came = await self.mailbox.take(node, beat, [before], within=within, blame=first)
            until = until or node.time() + self.deadline_s
            got = came.get(before)
            if got is None or self.given_up == k:
                return None
            adds = s < n - 1
            S[c] = await node.compute(_add, got.parts["sum"], S[c]) if adds else got.parts["sum"]
            if c == n - 1:
                sums = {name: got.scalars.get(name, 0.0) + adds * sums[name] for name in sums}
        mean = await node.compute(_joined, x, S, n)
        # Narrow sums may overflow that everybody's, in float32, do not.
        if self.is_broken(k) or not await node.compute(all_finite, mean):
            return None
        return Mean(mean, n, {name: value / n for name, value in sums.items()})

    async def through_hub(
        self,
        node: NodeInterface,
        k: int,
        x: Vector,
        numbers: Mapping[str, float],
        others: list[str],
    ) -> Mean | None:
        """Send x to the hub and return its answer, or be the hub; None without an answer."""
        hub = self.hub_of(node)
        if node.id == hub:
            beat = (k, self.first + TO_HUB)
            came = await self.mailbox.take(node, beat, others, lead=ANY_LEAD)
            if self.is_broken(k):
                return None
            mean = await self.added_up(node, x, numbers, came)
            told = {**mean.numbers, "count": mean.count}
            self.push(node, others, mean.vector, told, self.first + FROM_HUB)
            return Mean(await node.compute(np.copy, mean.vector), mean.count, mean.numbers)
        self.push(node, [hub], x, numbers, self.first + TO_HUB)
        # The hub may wait a deadline for others before it answers.
        within = None if node.is_unknown(hub) else 2 * self.deadline_s
        beat = (k, self.first + FROM_HUB)
        answer = (await self.mailbox.take(node, beat, [hub], within=within)).get(hub)
        if answer is None:
            return None
        told = {name: answer.scalars.get(name, 0.0) for name in numbers}
        return Mean(answer.parts["sum"], int(answer.scalars.get("count", 1)), told)

    async def everybody(
        self,
        node: NodeInterface,
        k: int,
        x: Vector,
        numbers: Mapping[str, float],
        others: list[str],
    ) -> Mean:
        """Send x to all, and take the mean of those that came."""
        self.push(node, others, x, numbers, self.last)
        # Who is in the next round already has finished this one without us.
        came = await self.mailbox.take(node, (k, self.last), others, lead=0)
        return await self.added_up(node, x, numbers, came)

    def push(
        self,
        node: NodeInterface,
        peers: Sequence[str],
        x: Vector,
        numbers: Mapping[str, float] | None,
        phase: int,
        index: Mapping[str, Any] = ALL,
    ) -> None:
        """Send x, or a chunk of it, and tell what that saves."""
        size = self.size_of(node)
        more = 0 if self.stands_for is None else x.size * (self.stands_for - size) // size
        saved = more * x.itemsize
        node.push(peers, {"sum": x}, scalars=numbers, phase=phase, index=index, saved=saved)

    async def added_up(
        self,
        node: NodeInterface,
        x: Vector,
        numbers: Mapping[str, float],
        came: Mapping[str, Arrival],
    ) -> Mean:
        """Return the mean of x and what came, added up in the order of the peer list.

        Left out, on all nodes alike, is what would make a sum infinite.
        """
        total: Vector = np.zeros(x.shape, np.result_type(np.float32, x))
        sums, count = dict.fromkeys(numbers, 0.0), 0
        for j in node.ids:
            if j == node.id:
                vector, theirs = x, numbers
            elif j in came:
                vector, theirs = came[j].parts["sum"], came[j].scalars
            else:
                continue
            added = await node.compute(_added, total, vector)
            if added is None:
                continue
            total, count = added, count + 1
            sums = {name: sums[name] + theirs.get(name, 0.0) for name in sums}
        await node.compute(_divide, total, count)
        mean = await node.compute(narrowed, total, x)
        return Mean(mean, count, {name: value / count for name, value in sums.items()})

    def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep what came; a message to everybody ends the wait for anything else of its round.

        Raises ``PeerError`` for what no step of this node asks for.
        """
        self.check(node, arrival)
        k, phase = arrival.round, arrival.phase
        # The one before on the ring may be n − 1 steps ahead, and then have sent to everybody.
        room = node.nodes + self.mailbox.room - 2 if self.form == "ring" else None
        answer = self.mailbox.put(node, arrival, room)
        if phase == self.last:
            self.interrupt(k)
        return answer

    def check(self, node: NodeInterface, arrival: Arrival) -> None:
        """Raise ``PeerError`` unless a step of this node asks for just that, from its sender."""
        s, index, sender = arrival.phase - self.first, arrival.index, arrival.sender
        is_all = index["kind"] == "all" and arrival.parts["sum"].size == self.size_of(node)
        if arrival.phase == self.last:
            is_asked_for = is_all
        elif self.form == "ring":
            is_asked_for = index["kind"] == "range" and self.is_step(node, sender, s, index)
        else:
            at, of = (TO_HUB, node.id) if s == TO_HUB else (FROM_HUB, sender)
            is_asked_for = self.form == "server" and is_all and s == at and of == self.hub_of(node)
        if not is_asked_for:
            raise PeerError(
                "unsupported_message", f"the all-reduce here is {self.form}, and asks for no such"
            )

    def size_of(self, node: NodeInterface) -> int:
        """Return how many elements are reduced."""
        return node.params.size if self.size is None else self.size

    def is_step(self, node: NodeInterface, sender: str, s: int, index: Mapping[str, Any]) -> bool:
        """Whether step ``s`` on the ring has this chunk come from there."""
        n, i = node.nodes, node.ids.index(node.id)
        c, edges = (i - s - 1) % n, edges_of(self.size_of(node), n)
        is_chunk = (index["start"], index["stop"]) == (edges[c], edges[c + 1])
        return is_chunk and 0 <= s < 2 * (n - 1) and sender == node.ids[i - 1]


def edges_of(d: int, n: int) -> list[int]:
    """Return where the n chunks of a vector of d values begin, and d."""
    return [d * c // n for c in range(n + 1)]


def hub_of(node: NodeInterface, name: str) -> str:
    """Return ``name``, or the first of the peer list; raises ``ConfigError`` for a stranger."""
    if name and name not in node.ids:
        raise ConfigError(
            f"{name!r} is not in the peer list", key="algorithm.hub", allowed=", ".join(node.ids)
        )
    return name or node.ids[0]


def _add(to: Vector, x: Vector) -> Vector:
    to += x
    return to


def _added(total: Vector, x: Vector) -> Vector | None:
    """Return total + x, or None if that is not finite."""
    found: Vector = np.add(total, x)
    return found if all_finite(found) else None


def _joined(x: Vector, chunks: Sequence[Vector], n: int) -> Vector:
    """Return the chunks of a vector like ``x`` as one, divided by n."""
    found = np.concatenate(chunks, out=np.empty_like(x))
    found /= n
    return found


def _divide(x: Vector, n: int) -> None:
    x /= n
