"""The two halves of an algorithm, and all that it may ask of its node.

An ``Algorithm`` is the lecture's pair of threads: ``run`` is the active one, ``receive`` the
passive one. The same object runs in the daemon and in virtual time, because everything it
needs from the world (time, randomness, training, the network) comes through ``NodeInterface``.

Invariant: an algorithm never writes into ``node.params``. It computes a new vector and hands it
to ``commit`` or ``merge``; both apply a *change* to whatever the params are by then, so nothing
that was merged meanwhile is lost. No socket, file, wall clock, thread or global randomness here.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from gossipnode.algorithms.messages import (
    AGE_MAX,
    ALL,
    Answer,
    Arrival,
    Outcome,
    Purpose,
    Sent,
    Vector,
    is_answer,
)
from gossipnode.codecs.base import Codec, Tensor
from gossipnode.options import AlgorithmOptions

# Whoever writes an algorithm needs this module alone.
__all__ = [
    "AGE_MAX",
    "ALL",
    "Algorithm",
    "Answer",
    "Arrival",
    "NodeInterface",
    "Outcome",
    "Purpose",
    "Row",
    "Sent",
    "Vector",
    "Weight",
    "is_answer",
]

Weight = float | Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Row:
    """This node's row of the mixing matrix W: ``self_weight`` is w_ii, ``weights[j]`` is w_ij."""

    self_weight: float
    weights: Mapping[str, float] = field(default_factory=dict)


class NodeInterface(Protocol):
    """What an algorithm may ask of its node, in the daemon and in virtual time alike."""

    @property
    def id(self) -> str:
        """This node's name."""

    @property
    def epoch(self) -> int:
        """The number of this node's life, greater than those of its lives before."""

    @property
    def params(self) -> Vector:
        """The current params, shape (d,), read-only: a snapshot that never changes."""

    @property
    def age(self) -> int:
        """Local SGD steps that have gone into ``params``."""

    @property
    def round(self) -> int:
        """The round (or period) under way, from 0."""

    @property
    def loss(self) -> float | None:
        """The mean loss of the last local steps; None before there were any in this life."""

    @property
    def budget_left(self) -> bool:
        """Whether to go on: rounds and time remain and nobody asked the node to stop."""

    @property
    def rounds(self) -> int:
        """How many rounds there are to run; 0: until the node is stopped."""

    @property
    def stopping(self) -> bool:
        """Whether the node drains: waits end early, and nobody is to blame for it."""

    @property
    def rng(self) -> np.random.Generator:
        """The algorithm's own stream of random numbers."""

    @property
    def out_neighbours(self) -> tuple[str, ...]:
        """Whom this node sends to in the fixed graph; empty where peers are random."""

    @property
    def graph_changes(self) -> bool:
        """Whether each round has a graph of its own: what one peer does tells little of others."""

    def row_at(self, k: int) -> Row:
        """Return this node's row of W in round ``k`` >= 0; the same object where W stays."""

    def out_neighbours_at(self, k: int) -> tuple[str, ...]:
        """Return whom this node sends to in round ``k`` >= 0."""

    def shares_at(self, k: int) -> Mapping[str, float]:
        """Return p_ji, the share that this node hands to each j that it sends to in round ``k``.

        Column i of W, divided by its sum; where no W need be, 1/(1 + out-degree). For algorithms
        whose ``needs`` name columns. They and what this node keeps add to one.
        """

    @property
    def row(self) -> Row:
        """This node's row of a W that stays: whom it receives from, and with what weight."""

    @property
    def tree_neighbours(self) -> tuple[str, ...]:
        """Whom this node is joined to in the spanning tree that all nodes find in the graph.

        For graphs that stay and go both ways; of a tree it is the tree itself.
        """

    @property
    def nodes(self) -> int:
        """How many nodes the peer list has, this one included."""

    @property
    def ids(self) -> tuple[str, ...]:
        """All nodes in the order of the peer list; empty where peers are random."""

    def shared_seed(self, k: int) -> int:
        """Return what all nodes of the swarm draw by in round ``k`` >= 0: a number in [0, 2⁶⁴)."""

    @property
    def samples(self) -> int:
        """How many training samples this node has."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Where each tensor lies in the params, in order."""

    @property
    def codec(self) -> Codec | None:
        """What ``[codec]`` asks for; None: nothing is made smaller.

        With it differences can be sent, for which error feedback makes up: it is a contraction.
        """

    @property
    def steps_per_s(self) -> float:
        """Local steps a second in the last rounds; 0 where none took any time."""

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second of the last pushes, from leaving to the answer; 0 where not known."""

    @property
    def lead_max(self) -> int:
        """Rounds by which a sender can be ahead in lockstep: 1 where edges go both ways.

        Where there is no bound, or a large one: by how many a model may be early.
        """

    def time(self) -> float:
        """Monotonic time in seconds: the loop's clock."""

    async def sleep(self, seconds: float) -> None:
        """Sleep; returns early when the node stops."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for ``event``; False when ``seconds`` passed or the node stops first."""

    async def train(self, steps: int) -> None:
        """Run local steps on a private copy, then apply the difference that they made."""

    async def trained(self, at: Vector, steps: int) -> Vector:
        """Return what local steps make of a copy of ``at``; the params stay as they are.

        ``commit`` says when the steps have gone into the params.
        """

    async def gradient(self, at: Vector) -> tuple[Vector, float]:
        """Return the gradient at ``at`` on the next batch, and the η that belongs to this step.

        It counts as a local step; ``commit`` says when it has gone into the params.
        """

    async def compute(self, work: Callable[..., Any], *vectors: Any) -> Any:
        """Run a vector operation: at once when small, in the worker thread above 4 MiB."""

    async def merge(self, incoming: Vector, weight: Weight, age: int) -> None:
        """Set params ← params + weight·(incoming − params) and age ← max(age, ``age``).

        ``weight`` is in [0, 1], or a function of this node's age at the moment of the merge.
        ``incoming`` is overwritten. Raises ``PeerError`` (not_finite), changing nothing.
        """

    async def commit(self, after: Vector, before: Vector, age: int = 0, steps: int = 0) -> None:
        """Apply the change from ``before`` (a snapshot) to ``after`` (owned) to the params.

        ``steps`` local steps have gone into the change.

        Exact and without a copy where ``before`` still is the current snapshot. Raises
        ``PeerError`` (not_finite), changing nothing.
        """

    async def adopt(self, params: Vector, age: int) -> None:
        """Set params ← ``params`` (owned) and age ← ``age``, whatever they were.

        What was merged meanwhile is lost: for algorithms whose active side alone changes the
        params. Steps under way are in ``params``. Raises ``PeerError`` (not_finite).
        """

    def sample_peer(self) -> str | None:
        """Choose a peer uniformly among those that seem alive; None if there is none."""

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
        """Queue one message for ``peers``; returns at once. A newer one replaces one unsent.

        Does nothing before ``Algorithm.run`` begins and after the node has run: then only what
        answers an exchange leaves.

        ``index`` tells which coordinates the parts are, if not all; ``age`` defaults to the
        node's. ``version`` and ``base_version`` go along with a difference. ``saved`` >= 0 are the
        bytes by which the parts are smaller than the vectors that they stand for; what a codec
        saves is added to it.
        """

    def peer_round(self, peer: str) -> int:
        """The round that ``peer`` last said it was in; -1 if never heard of."""

    def went_on_without(self, peer: str, k: int) -> bool:
        """Whether ``peer`` is in a round in which lockstep had it only after this node's ``k``."""

    def was_there(self, peer: str, k: int, since: int) -> bool:
        """Whether being in round ``k`` shows that ``peer`` was in ``since``, through others too."""

    def vouch_for(self, peer: str) -> None:
        """Take a peer for alive that was never heard of, but must have taken part."""

    def is_expected(self, peer: str) -> bool:
        """Whether it is worth waiting for ``peer``: not suspected dead."""

    def knows(self, sender: str) -> bool:
        """Whether a sender can be sent to: it is in the peer list, or said where it is."""

    def is_unknown(self, peer: str) -> bool:
        """Whether ``peer`` was never heard of, in this life or in the checkpoint's."""

    def suspect(self, peer: str, reason: str) -> None:
        """Stop waiting for ``peer`` until it is heard of again."""

    def probe(self, peers: Iterable[str]) -> None:
        """Ask whether ``peers`` still listen; suspect who does not. Returns at once."""

    def tell(self, reason: str) -> None:
        """Tell in the status what this node waits for now; ``""`` when it goes on."""

    def skip_to(self, round_: int) -> None:
        """Go on in a later round, since the neighbours are there."""

    async def end_round(self) -> None:
        """Close the round: count it, measure and checkpoint where that is due."""

    def count(self, what: str, amount: int = 1) -> None:
        """Add to a counter of the status and of /metrics."""


class Algorithm(ABC):
    """One node's half of an algorithm. Subclasses are built as ``Class(options, local_steps)``."""

    name: ClassVar[str]
    called: str  # the form's name, which peers compare
    Options: ClassVar[type[AlgorithmOptions]]
    # The roles of the parts that it sends and accepts; the inbox refuses others. A message has all
    # of them, or one of the ``bundles``.
    roles: frozenset[str] = frozenset({"x"})
    bundles: tuple[frozenset[str], ...] = ()
    # Which kinds of index its parts may have besides ``all`` (docs/wire.md).
    pieces: ClassVar[frozenset[str]] = frozenset()
    # The roles whose parts may come coded, by a codec that the options take.
    coded: ClassVar[frozenset[str]] = frozenset()
    # Messages that may wait for one peer; beyond that a newer one replaces the oldest.
    room: int = 1
    # Whether a message holds all that those before it did: then none need wait beside the newest.
    cumulative: bool = False
    # Whether a life must be on disk before it begins: what it hands out would come into being twice
    # if it were forgotten.
    keeps_first: ClassVar[bool] = False
    # Whether it sends to nodes that are no neighbours in the graph.
    talks_to_all: ClassVar[bool] = False
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.MODEL})
    needs_graph: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Let a class without forms be called by its name."""
        super().__init_subclass__()
        cls.called = getattr(cls, "name", "")

    @abstractmethod
    async def run(self, node: NodeInterface) -> None:
        """Be the active side until ``node.budget_left`` is false."""

    @abstractmethod
    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be the passive side of one arrival; raises ``PeerError`` to refuse it.

        Up to its first wait it runs without a task, so that no ``asyncio.timeout`` may begin there.
        """

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what a checkpoint must hold besides the params: vectors, and facts as JSON."""
        return {}, {}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:  # noqa: B027
        """Take up the ``state`` of an earlier life, before ``run``."""

    def swarm_means(self) -> tuple[float, float, float] | None:
        """Return the swarm's mean loss, steps per second and samples; None where not known."""
        return None

    def size_fits(self, role: str, size: int, tensors: Sequence[Tensor]) -> bool:
        """Whether a part of ``role``, of all coordinates, may have ``size`` elements.

        Asked where that is not one for each param, as always fits. ``tensors`` are the layout's.
        """
        del role, size, tensors
        return False

    def refused(self, node: NodeInterface, peer: str, code: str) -> None:  # noqa: B027 - optional
        """Notice that ``peer`` refused a message for good, and why: a code of ``REFUSALS``."""

    def begin(self, node: NodeInterface) -> None:  # noqa: B027 - optional
        """Notice that this life begins, before it is kept and before ``run``."""

    def peer_changed(self, node: NodeInterface, peer: str) -> None:  # noqa: B027 - optional
        """Notice that ``peer`` was heard of, suspected, or told its round."""
