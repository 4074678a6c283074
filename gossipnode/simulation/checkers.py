"""What must hold in a simulated swarm, whatever happens to it.

After every delivery, of the receiver: nothing is merged twice in one life, params are finite and
in schema, memory for arriving bodies is within its limit. At rest and at the end, of every node
that is up: all of that, nothing reserved, every queue and table within its bound, no round that
lasts longer than the deadlines allow, and Σx unmoved where the algorithm promises it.

Invariant: the checkers look and change nothing, they draw no random numbers and take no virtual
time, so a run is the same with them as without. What they know of merges they noted themselves:
they do not ask the ledger that they check. Each returns what it found in words, "" where all is
well; the swarm adds seed, time and replay.
"""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossipnode.algorithms.all_reduce import hub_of
from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.algorithms.gossip_learning import GossipOptions
from gossipnode.algorithms.hub_clients import Client
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.config import Config
from gossipnode.learning.dtypes import epsilon
from gossipnode.learning.params import Array, all_finite
from gossipnode.node.inbox import body_bytes_max
from gossipnode.node.node import Node
from gossipnode.simulation.world import SimulatedStore, SimulatedWorld
from gossipnode.wire.message import Message

# An identity in 64 bits: which sender, which of its lives, which of that life's messages.
SENDER_BITS, LIFE_BITS, SEQ_BITS = 20, 12, 32
LAST_SEQ = 2**SEQ_BITS - 1

# What came of a delivery that went into the model, now or when its round closes.
MERGED = frozenset({"merged", "buffered", "late"})

# Σ: a merge rounds three times at each of two ends, each time by half an ulp of the largest value.
ROUNDINGS = 4.0


class Checkers:
    """The checkers of one swarm, and what they remember of it."""

    def __init__(self, config: Config, names: Iterable[str]) -> None:
        self.config = config
        self.merges = MergedOnce(names)
        self.start = Total(np.zeros(0), 0.0)
        # The params of each node that were found so; held weakly, else a model each stays alive.
        self._sound: dict[str, weakref.ref[Array]] = {}
        self._lost_time: dict[str, float] = {}  # until when a fault made a node's round longer

    def begin(self, nodes: Iterable[Node]) -> None:
        """Remember Σx of the beginning."""
        self.start = Total.of(nodes)

    def excuse(self, name: str, until: float) -> None:
        """Count a node's round from ``until`` on: a fault took its time before."""
        self._lost_time[name] = until

    def delivered(
        self, node: Node, message: Message, outcome: str, *, look: bool = True
    ) -> tuple[str, bool]:
        """Check a delivery: return what is wrong, and whether the push was overtaken.

        Without ``look`` the params are left for the checks at rest: a node looks at them itself
        whenever they change, and twice is dear in a large swarm.
        """
        fault, overtaken = self.merges.note(node.id, message, outcome in MERGED)
        if not look:
            return fault, overtaken
        # Most pushes of dpsgd change no params yet: nothing to look at again.
        params, sound = node.params, self._sound.get(node.id)
        if sound is None or sound() is not params:
            fault = fault or after_delivery(node)
            self._sound[node.id] = weakref.ref(params)
        return fault, overtaken

    def at_rest(self, node: Node, world: SimulatedWorld, now: float) -> Iterator[str]:
        """Check one node that is up; yields all that is wrong."""
        writing = isinstance(world.store, SimulatedStore) and world.store.unsynced is not None
        if fault := params_fault(node):
            yield fault
        yield from bound_faults(node, writing=writing)
        if waits_for_its_hub(node):
            self.excuse(node.id, now)
        if not world.is_paused:
            limit_s = longest_round_s(self.config, world.step_s)
            if fault := stuck_fault(node, self._lost_time.get(node.id, 0.0), now, limit_s):
                yield fault

    def why_total_may_move(self, nodes: Sequence[Node]) -> str:
        """Return why Σx of all ``nodes`` need not be preserved; see ``why_not_preserved``."""
        return why_not_preserved(self.config, nodes)

    def total_moved(self, nodes: Sequence[Node]) -> float:
        """Return how far Σx has moved since the beginning, in the worst coordinate."""
        return float(np.abs(Total.of(nodes).sum - self.start.sum).max(initial=0.0))

    def rounding(self, nodes: Sequence[Node], delivered: int) -> float:
        """Return how far rounding can have moved it, after so many deliveries."""
        merges = delivered + sum(node.round for node in nodes) + len(nodes)
        eps = epsilon(nodes[0].layout.dtype)
        return ROUNDINGS * eps * self.start.largest * merges


class MergedOnce:
    """Every merge of a swarm, to tell a second one of the same message by the same life.

    A receiver's merges are one sorted array of 64-bit identities: 8 bytes a merge, where a set of
    tuples takes some 200. Finding one is a bisection: 0.4 µs among 200, 0.9 µs among 10,000
    (a comparison of all by numpy takes 1.9 and 3.4).
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._number = {name: number for number, name in enumerate(names)}
        assert len(self._number) <= 2**SENDER_BITS, "more nodes than have a number"
        self._merged: dict[str, array[int]] = {name: array("Q") for name in self._number}
        # (sender, epoch) -> its identity's upper half, shifted into place.
        self._life: dict[tuple[str, int], int] = {}
        self._lives = dict.fromkeys(self._number, 0)

    def note(self, receiver: str, message: Message, merged: bool) -> tuple[str, bool]:
        """Take note of a delivery: return what is wrong with it, and whether it was overtaken.

        Overtaken means that a later message of the same life of its sender was merged before.
        """
        life = self._life.get((message.sender, message.epoch))
        if life is None:
            life = self._begin(message.sender, message.epoch)
        seq = message.seq
        if life < 0 or seq > LAST_SEQ:
            return f"{identity(message)} does not fit {SENDER_BITS}+{LIFE_BITS}+{SEQ_BITS} bits", (
                False
            )
        key, known = life | seq, self._merged[receiver]
        at = bisect_left(known, key)
        twice = at < len(known) and known[at] == key
        after = at + twice
        overtaken = after < len(known) and known[after] <= life | LAST_SEQ
        if merged and twice:
            return f"{receiver} merged {identity(message)} twice", overtaken
        if merged:
            known.insert(at, key)
        return "", overtaken

    def of(self, receiver: str) -> array[int]:
        """Return a copy of what ``receiver`` has merged by now."""
        return self._merged[receiver][:]

    def go_back(self, receiver: str, known: array[int] | None) -> None:
        """Go back to what the disk ``known``: the next life may merge again what was lost."""
        self._merged[receiver] = array("Q") if known is None else known[:]

    def count(self, receiver: str) -> int:
        """Return how many merges of the receiver's present life are known."""
        return len(self._merged[receiver])

    @property
    def nbytes(self) -> int:
        """The memory of all identities."""
        return sum(known.buffer_info()[1] * known.itemsize for known in self._merged.values())

    def _begin(self, sender: str, epoch: int) -> int:
        """Number a life; -1 where the bits do not suffice."""
        number = self._number.get(sender)
        if number is None or self._lives[sender] == 2**LIFE_BITS:
            return -1
        life = (number << LIFE_BITS | self._lives[sender]) << SEQ_BITS
        self._lives[sender] += 1
        self._life[sender, epoch] = life
        return life


def identity(message: Message) -> tuple[str, int, int]:
    """Return what a message is known by: sender, epoch, sequence number."""
    return message.sender, message.epoch, message.seq


def after_delivery(node: Node) -> str:
    """Check the receiver of a delivery: params finite and in schema, memory within its limit."""
    largest = body_bytes_max(node.layout, node.algorithm)
    decoded = node.layout.nbytes * len(node.algorithm.coded)
    # One is always let in.
    limit = max(node.config.network.inflight_bytes_max, largest + decoded)
    if node.inbox.inflight_bytes > limit:
        return f"{node.id} holds {node.inbox.inflight_bytes} bytes for bodies, more than {limit}"
    return params_fault(node)


def params_fault(node: Node) -> str:
    """Check that params are finite, in schema, and not writable."""
    params, layout = node.params, node.layout
    if params.shape != (layout.size,) or params.dtype != layout.dtype:
        return f"{node.id} has params {params.dtype}{params.shape}, not in schema"
    if params.flags.writeable:
        return f"{node.id} has params one may write to"
    if not all_finite(params):
        return f"{node.id} has params that are not finite"
    return ""


def bound_faults(node: Node, *, writing: bool) -> Iterator[str]:
    """Check every queue and table of a node that rests; ``writing`` while its disk is busy.

    The simulated worker is busy with the disk then, and large bodies may wait for it.
    """
    arriving = node.inbox.inflight_bytes
    if arriving and not writing:
        yield f"{node.id} still holds {arriving} bytes for bodies"
    for what, size, limit in _sizes(node):
        if size > limit:
            yield f"{node.id} has {size} {what}, more than {limit}"


def _sizes(node: Node) -> Iterator[tuple[str, int, int]]:
    """Yield what may grow: its name, its size, its bound."""
    yield "ledgers", len(node.inbox._ledgers), node.senders_max  # noqa: SLF001 - a checker looks inside
    yield "peers learnt", len(node.peers.learnt), node.config.network.peers_max
    yield "measurements", len(node.history()), node.config.run.history_max
    if isinstance(node.algorithm, Lockstep):
        # The one under way, and those that may have come early.
        early = node.algorithm.early_max(node)
        yield "open rounds", len(node.algorithm.open), 1 + early
    for peer, slot in node.courier.outbox._slots.items():  # noqa: SLF001
        room = max(node.place.room.get(peer, 1), node.algorithm.room)
        yield f"models waiting for {peer}", len(slot.waiting), room


def longest_round_s(config: Config, step_s: float) -> float:
    """Return how long no round may last: twice what training and deadlines add up to.

    ``step_s`` is what a local step takes the node. A slow or dead peer never blocks a node, so
    this holds whatever the network does, but for clients whose hub is gone.
    """
    return 2.0 * config.algorithm.round_s_max(step_s * config.training.local_steps)


def stuck_fault(node: Node, since: float, now: float, limit_s: float) -> str:
    """Check that the round under way, or what is left of it after ``since``, is no eternity."""
    began = max(since, node._round_began)  # noqa: SLF001 - a checker looks inside
    if node.state == "running" and node.budget_left and now - began > limit_s:
        return f"{node.id} is stuck: in round {node.round} for {now - began:g} s"
    return ""


def waits_for_its_hub(node: Node) -> bool:
    """Whether the node is the client of a hub that it takes for dead: it may wait for ever."""
    if not isinstance(node.algorithm, Client) or node.state != "running":
        return False
    hub = hub_of(node, node.algorithm.hub)
    return hub != node.id and not node.is_expected(hub)


# -- Σx --------------------------------------------------------------------------------------------

# The graphs whose columns do not add to one: there a round may move Σx.
NOT_DOUBLY_STOCHASTIC = frozenset({"el_local"})

# What a D-PSGD node counts when a round was not mixed whole by all. Both ends of an edge must use
# a model or neither: weight that one end keeps to itself moves Σx.
UNEVEN = (
    "missing_models", "late_merged", "late_dropped", "rounds_skipped", "pushes_replaced",
)  # fmt: skip


def why_not_preserved(config: Config, nodes: Iterable[Node]) -> str:
    """Return why Σx need not be now what it was, "" where the algorithm promises that it is.

    Promised, as long as training adds nothing, by

    - dpsgd on a doubly stochastic W: whenever all nodes have mixed the same rounds and every round
      was mixed whole;
    - gossip with push_pull and constant weights, whose two ends apply one increment: whenever no
      exchange is under way and none was given up, for then one end may have merged alone.

    Not promised by push, which moves x̄ by a·(x_s − x_r)/n, nor by weights that differ between the
    two ends of an exchange.
    """
    algorithm, nodes = config.algorithm, list(nodes)
    if isinstance(algorithm, DpsgdOptions):
        if config.topology.graph in NOT_DOUBLY_STOCHASTIC:
            return f"the W of {config.topology.graph} is not doubly stochastic"
        if algorithm.form == "stale":
            return "stale mixes half-steps of two rounds"
        return _why_not_in_lockstep(nodes)
    if not isinstance(algorithm, GossipOptions):
        return f"{algorithm.name} goes along gradients, whatever training.local_steps is"
    if algorithm.exchange != "push_pull" or algorithm.staleness != "constant":
        return "gossip promises it with push_pull and constant weights alone"
    for node in nodes:
        counters = node.counters
        refused = sum(counters.by_label("pushes_refused_by_peer").values())
        failed = counters.get("pushes_failed")
        if counters.get("pushes_sent") > counters.get("pushes_acknowledged") + failed + refused:
            return f"an exchange of {node.id} is under way"
        if failed or refused:
            return f"an exchange of {node.id} failed"
    return ""


def _why_not_in_lockstep(nodes: list[Node]) -> str:
    for node in nodes:
        assert isinstance(node.algorithm, Lockstep)
        if node.round != nodes[0].round:
            return f"{node.id} is in another round than {nodes[0].id}"
        # With cta a round may be mixed and still be trained.
        if node.algorithm.closed != node.round - 1:
            return f"{node.id} has mixed a round that is not closed"
        for counter in UNEVEN:
            if node.counters.get(counter):
                return f"{node.id} counts {node.counters.get(counter)} {counter}"
    return ""


@dataclass(frozen=True, slots=True)
class Total:
    """Σx at the beginning, shape (d,) in float64, and the largest |x_i| of then."""

    sum: NDArray[np.float64]
    largest: float

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Total:
        """Add up, one model after the other: no matrix of all is ever made."""
        total, largest = np.zeros(0), 0.0
        for node in nodes:
            x = node.params
            total = x.astype(np.float64) if not total.size else np.add(total, x, out=total)
            largest = max(largest, float(np.abs(x).max(initial=0.0)))
        return cls(total, largest)
