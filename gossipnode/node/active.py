"""The active side: all that an algorithm may ask of its node (``NodeInterface``).

Invariant: what is heavy leaves the loop, what waits can be ended, and no params are written in
place. The fields belong to ``Node``, which this is a part of; it creates them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from gossipnode.algorithms.base import ALL, Algorithm, Purpose, Row, Sent, Vector, Weight
from gossipnode.codecs.base import Codec, Coded, Tensor
from gossipnode.config import Config
from gossipnode.learning.params import Layout
from gossipnode.logs import event
from gossipnode.node.computing import Computing
from gossipnode.node.courier import Courier
from gossipnode.node.directory import Directory
from gossipnode.node.measuring import Measurements
from gossipnode.node.memory import Memory
from gossipnode.node.outbox import Parcel
from gossipnode.node.passive import PassiveSide
from gossipnode.node.peers import ABSENT, PeerTable
from gossipnode.node.place import Place

log = logging.getLogger("gossipnode.node")


class ActiveSide(Computing):
    """What the algorithm sees of its node, in the daemon and in virtual time alike."""

    config: Config
    directory: Directory
    place: Place
    id: str
    epoch: int
    state: str
    reason: str
    time: Callable[[], float]  # monotonic seconds: the clock of the loop that started the node
    algorithm: Algorithm
    layout: Layout
    codec: Codec | None
    peers: PeerTable
    courier: Courier
    passive: PassiveSide
    measurements: Measurements
    memory: Memory
    tasks: asyncio.TaskGroup
    is_active: bool  # whether ``tasks`` takes more
    round_times: deque[float]
    _round_began: float
    _rng: np.random.Generator
    sampler_rng: np.random.Generator
    _enough: bool
    _waiting: set[asyncio.Event | asyncio.Future[None]]

    @property
    def params(self) -> Vector:
        """The current params: read-only, and never changed under who holds them."""
        return self.replica.params

    @property
    def age(self) -> int:
        """Local steps that have gone into the params."""
        return self.replica.age

    @property
    def loss(self) -> float | None:
        """The mean loss of the last local steps."""
        return None if self.last_training is None else self.last_training.loss

    @property
    def budget_left(self) -> bool:
        """Whether rounds and time remain and nobody asked to stop."""
        rounds = self.config.run.rounds
        return not self.stopping and (not rounds or self.round < rounds)

    @property
    def rounds(self) -> int:
        """How many rounds there are to run; 0: until the node is stopped."""
        return self.config.run.rounds

    @property
    def stopping(self) -> bool:
        """Whether the active side is to end: somebody asked for it, or time is up."""
        return self._enough

    @property
    def rng(self) -> np.random.Generator:
        """The algorithm's stream of random numbers."""
        return self._rng

    @property
    def out_neighbours(self) -> tuple[str, ...]:
        """Whom this node sends to in the fixed graph."""
        return self.place.out_neighbours

    @property
    def row(self) -> Row:
        """This node's row of W where it is the same each round."""
        assert self.place.row is not None, "the graph is not fixed"
        return self.place.row

    @property
    def graph_changes(self) -> bool:
        """Whether each round has a graph of its own."""
        return self.place.rounds is not None

    def row_at(self, k: int) -> Row:
        """Return this node's row of W in round ``k``."""
        rounds, row = self.place.rounds, self.place.row
        if rounds is not None:
            return rounds.row(k)
        assert row is not None, "the graph is not fixed"
        return row

    def out_neighbours_at(self, k: int) -> tuple[str, ...]:
        """Return whom this node sends to in round ``k``."""
        rounds = self.place.rounds
        return self.place.out_neighbours if rounds is None else rounds.out_neighbours(k)

    def shares_at(self, k: int) -> Mapping[str, float]:
        """Return what this node hands to each that it sends to in round ``k``."""
        rounds = self.place.rounds
        return self.place.shares if rounds is None else rounds.shares(k)

    @cached_property
    def neighbours(self) -> Mapping[str, None]:
        """The ids of whom this node sends to or hears from in the fixed graph, in this order."""
        row = self.place.row
        return dict.fromkeys((*self.out_neighbours, *(() if row is None else row.weights)))

    @cached_property
    def tree_neighbours(self) -> tuple[str, ...]:
        """Whom this node is joined to in the graph's spanning tree."""
        row = self.directory.tree(self.config).out_neighbours[self.place.index]
        return tuple(self.directory.ids[j] for j in row)

    @property
    def nodes(self) -> int:
        """How many nodes the peer list has."""
        return self.place.nodes

    @property
    def ids(self) -> tuple[str, ...]:
        """All nodes in the order of the peer list."""
        return self.directory.ids

    def shared_seed(self, k: int) -> int:
        """Return what all nodes of the swarm draw by in round ``k``."""
        swarm = self.config.swarm
        return xxhash.xxh3_64_intdigest(f"{swarm.name} {swarm.seed} {k}".encode())

    @property
    def samples(self) -> int:
        """How many training samples this node has."""
        return self.learner.samples

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Where each tensor lies in the params."""
        return self.layout.tensors

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second of the last pushes, from leaving to the answer.

        0 where the codec does not adapt to it: timing all pushes would cost every node.
        """
        return self.courier.bytes_per_s

    @property
    def steps_per_s(self) -> float:
        """Local steps a second in the last rounds."""
        seconds, last = sum(self.round_times), self.last_training
        if last is None or seconds <= 0:
            return 0.0
        return last.steps * len(self.round_times) / seconds

    @property
    def lead_max(self) -> int:
        """Rounds by which a sender can be ahead in lockstep."""
        return self.place.lead_max

    async def sleep(self, seconds: float) -> None:
        """Sleep, or until the node stops; gives way to other tasks even for no time."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(0.0 if self._enough else seconds, finish, over)
        self._waiting.add(over)
        try:
            await over
        finally:
            timer.cancel()
            self._waiting.discard(over)

    async def wait(self, event_: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; False when time is up or the node stops."""
        if self.stopping:
            return False
        self._waiting.add(event_)
        try:
            async with asyncio.timeout(seconds):
                await event_.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(event_)
        return not self.stopping

    async def merge(self, incoming: Vector, weight: Weight, age: int) -> None:
        """Set params ← params + weight·(incoming − params)."""
        await self.replica.merge(incoming, weight, age)

    async def commit(self, after: Vector, before: Vector, age: int = 0, steps: int = 0) -> None:
        """Apply the change before → after to the params."""
        await self.replica.commit(after, before, age, steps)

    async def adopt(self, params: Vector, age: int) -> None:
        """Set params ← ``params`` and age ← ``age``, whatever they were."""
        await self.replica.adopt(params, age)
        self.in_step = False

    def sample_peer(self) -> str | None:
        """Choose a peer uniformly among those that seem alive."""
        return self.peers.choose(self.sampler_rng, self.out_neighbours, self.time())

    def push(
        self,
        peers: Iterable[str],
        parts: Mapping[str, Sent],
        purpose: Purpose = Purpose.MODEL,
        scalars: Mapping[str, float] | None = None,
        *,
        phase: int = 0,
        index: Mapping[str, Any] = ALL,
        age: int | None = None,
        version: int = 0,
        base_version: int | None = None,
        saved: int = 0,
    ) -> None:
        """Queue one message for ``peers``: encoded once, whatever their number."""
        if not self.is_active:
            return
        clock = self.age if age is None else age
        frame = self.passive.frame(
            parts,
            purpose,
            clock,
            scalars,
            phase=phase,
            index=index,
            version=version,
            base_version=base_version,
        )
        for part in parts.values():
            if isinstance(part, Coded):
                saved += part.saved
        parcel = Parcel(frame, purpose, self.params, self.age, saved)
        for peer in peers:
            self.courier.put(peer, parcel, self.tasks)

    def peer_round(self, peer: str) -> int:
        """The round that a peer last said it was in."""
        return self.peers.known[peer].round

    def went_on_without(self, peer: str, k: int) -> bool:
        """Whether a peer is further than lockstep allows while this node is in round ``k``."""
        ahead, place = self.peers.known[peer].round - k, self.place
        if ahead <= place.lead_max:
            return False
        return place.rounds is None or place.rounds.was_passed(peer, k + ahead, k)

    def was_there(self, peer: str, k: int, since: int) -> bool:
        """Whether this node in round ``k`` shows that a peer was in ``since`` or later."""
        rounds = self.place.rounds
        return rounds is not None and rounds.was_there(peer, k, since)

    def vouch_for(self, peer: str) -> None:
        """Take a peer for alive that others have heard of, though this node has not."""
        self.peers.mark(self.peers.known[peer], "alive")

    def is_expected(self, peer: str) -> bool:
        """Whether it is worth waiting for a peer; not for one that is forgotten by now."""
        known = self.peers.get(peer)
        return known is not None and known.state not in ABSENT

    def knows(self, sender: str) -> bool:
        """Whether a sender is among the peers."""
        return sender in self.peers

    def is_unknown(self, peer: str) -> bool:
        """Whether a peer was never heard of."""
        return self.peers.known[peer].state == "unknown"

    def suspect(self, peer: str, reason: str) -> None:
        """Stop waiting for a peer until it is heard of again."""
        self.courier.suspect(peer, reason)

    def probe(self, peers: Iterable[str]) -> None:
        """Ask whether peers still listen; suspect who does not."""
        for peer in peers:
            self.courier.probe(peer, self.tasks)

    def tell(self, reason: str) -> None:
        """Tell in the status what this node waits for; a state's own reason stays."""
        if self.state == "running":
            self.reason = reason

    def skip_to(self, round_: int) -> None:
        """Go on in a later round."""
        event(log, logging.INFO, "round.skipped", id=self.id, start=self.round, to=round_)
        self.counters.add("rounds_skipped", round_ - self.round)
        self.round = round_

    async def end_round(self) -> None:
        """Close the round; measure and checkpoint where that is due."""
        self.round += 1
        self.in_step = False
        self.counters.add("rounds")
        now = self.time()
        self.round_times.append(now - self._round_began)
        self._round_began = now
        every = self.config.run.evaluate_every
        if every and self.round % every == 0:
            await self.measure()
        self.memory.keep_if_due()

    def count(self, what: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.counters.add(what, amount)

    async def measure(self) -> None:
        """Measure loss and accuracy on the test samples, and add a row to the history."""
        await self.measurements.measure()


def finish(future: asyncio.Future[None]) -> None:
    """End whoever waits for ``future``, unless something else did already."""
    if not future.done():
        future.set_result(None)
