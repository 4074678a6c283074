"""The graph of each round: W changes from round to round, and every node knows how.

Invariant: ``at(round)`` is a function of the sequence's options and the round alone, the same on
every node; what a sequence says of itself (doubly stochastic, symmetric) is checked each time a
round is made. Sockets, clocks and files may not enter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology import epidemic, equitopo
from gossipnode.topology.base_graph import base_graph
from gossipnode.topology.graph import Graph
from gossipnode.topology.graphs import GRAPHS, GraphKind, build_graph
from gossipnode.topology.mixing import Mixing
from gossipnode.topology.weights import default_rule, mixing_matrix

# The formula of OU-EquiDyn takes n² steps, half a second here; above, its rounds are sampled.
OU_FORMULA_MAX: Final = 2048
# Random rounds that stand for all, but no more than so many rows of W.
SAMPLES: Final = 100
SAMPLED_ROWS_MAX: Final = 100_000

# Nodes of a synchronous swarm are a few rounds apart; a simulator asks for the same rounds again.
ROUNDS_KEPT: Final = 32


@dataclass(frozen=True, eq=False)
class GraphSequence:
    """W for each round from 0 on; ``period`` is None where it never repeats, 1 where it stays.

    ``rho_ms`` gives √λ_max(E[Wᵀ(I − J)W]) where a formula is known. ``rule`` names the weights.
    """

    name: str
    nodes: int
    period: int | None
    make: Callable[[int], Mixing]
    rule: str = "own"
    doubly_stochastic: bool = True
    symmetric: bool = True
    rho_ms: Callable[[], float] | None = None
    _kept: OrderedDict[int, Mixing] = field(default_factory=OrderedDict, repr=False)

    def at(self, round_: int) -> Mixing:
        """Return W of ``round_`` >= 0."""
        assert round_ >= 0, "rounds count from 0"
        k = round_ if self.period is None else round_ % self.period
        found = self._kept.get(k)
        if found is None:
            found = self._kept[k] = self._checked(self.make(k))
            if len(self._kept) > max(ROUNDS_KEPT, self.period or 0):
                self._kept.popitem(last=False)
        return found

    def sample(self) -> list[Mixing]:
        """Return the rounds that stand for all: a period, or the first ``SAMPLES`` or fewer."""
        some = min(SAMPLES, max(10, SAMPLED_ROWS_MAX // self.nodes))
        return [self.at(k) for k in range(self.period or some)]

    def graph(self, round_: int) -> Graph:
        """Return who sends to whom in ``round_``."""
        return self.at(round_).graph(self.name)

    @property
    def is_static(self) -> bool:
        """Whether every round is the same."""
        return self.period == 1

    def _checked(self, mixing: Mixing) -> Mixing:
        assert mixing.nodes == self.nodes
        assert not self.doubly_stochastic or mixing.is_doubly_stochastic(), self.name
        assert not self.symmetric or mixing.is_symmetric(), self.name
        return mixing


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """What ``build_sequence`` was asked for; a sequence looks at what concerns it."""

    nodes: int
    seed: int = 0
    peers: int | None = None
    draws: int | None = None
    step: float | None = None
    sends: int | None = None


@dataclass(frozen=True, slots=True)
class SequenceKind:
    """A sequence of ``SEQUENCES``: its builder and one line of help."""

    build: Callable[[SequenceOptions], GraphSequence]
    help: str
    serves: str = "any"


def build_sequence(
    name: str,
    nodes: int,
    *,
    rule: str = "auto",
    lazy: bool = False,
    seed: int = 0,
    peers: int | None = None,
    draws: int | None = None,
    step: float | None = None,
    sends: int | None = None,
    **graph_options: Any,
) -> GraphSequence:
    """Return the sequence ``name`` of ``SEQUENCES``, or the graph of ``GRAPHS`` every round.

    ``rule`` (of ``RULES``; auto: metropolis, or uniform where directed) and ``graph_options`` (of
    ``build_graph``) are for graphs; sequences bring their own weights. ``peers``: base, at most so
    many a round, 1 if None; ``draws``: equi_static, ⌈log₂ n⌉ if None; ``step`` in (0, 1]: equi_dyn,
    0.5 if None; ``sends``: el, ⌊log₂ n⌋ if None (for el_oracle one less where n s is odd). ``lazy``
    takes (I + W)/2 every round. Raises ``ConfigError`` naming the option where none exists.
    """
    if name in GRAPHS:
        found = static_sequence(build_graph(name, nodes, seed=seed, **graph_options), rule)
    else:
        found = _own(name, rule, SequenceOptions(nodes, seed, peers, draws, step, sends))
    return _lazy(found) if lazy else found


def static_sequence(graph: Graph, rule: str = "auto", *, lazy: bool = False) -> GraphSequence:
    """Return ``graph`` with the weights of ``rule``, every round; ``lazy`` takes (I + W)/2."""
    rule = default_rule(graph) if rule == "auto" else rule
    mixing = mixing_matrix(graph, rule)
    found = GraphSequence(
        graph.name, graph.nodes, 1, lambda _: mixing, rule=rule, symmetric=not graph.directed
    )
    return _lazy(found) if lazy else found


def _own(name: str, rule: str, options: SequenceOptions) -> GraphSequence:
    """Build a sequence that brings its own weights."""
    kind = SEQUENCES.get(name)
    if kind is None:
        known = kinds()
        raise ConfigError(
            f"there is no graph {name!r}",
            key="topology.graph",
            allowed=", ".join(known),
            nearest=nearest_spelling(name, known),
        )
    if rule != "auto":
        raise ConfigError(f"{name} has its own weights", key="topology.weights", allowed="auto")
    if options.nodes < 1:
        raise ConfigError(
            f"a graph of {options.nodes} nodes", key="topology.graph", allowed="1 or more"
        )
    for key, value in (("draws", options.draws), ("peers", options.peers)):
        if value is not None and value < 1:
            raise ConfigError(f"{value}", key=f"topology.{key}", allowed="1 or more")
    if options.step is not None and not 0.0 < options.step <= 1.0:
        raise ConfigError(f"{options.step}", key="topology.step", allowed="above 0, at most 1")
    return kind.build(options)


def _lazy(found: GraphSequence) -> GraphSequence:
    return GraphSequence(
        found.name,
        found.nodes,
        found.period,
        lambda k: found.at(k).lazy(),
        rule=f"lazy {found.rule}",
        doubly_stochastic=found.doubly_stochastic,
        symmetric=found.symmetric,
    )


def _one_peer_exponential(options: SequenceOptions) -> GraphSequence:
    """Round k: i sends to i + 2^(k mod ⌈log₂ n⌉), weights ½; exact for powers of two."""
    n = options.nodes
    period = max(1, (n - 1).bit_length())

    def make(k: int) -> Mixing:
        senders = [] if n == 1 else range(n)
        return Mixing.from_entries(n, [(i + (1 << k)) % n for i in senders], senders, 0.5)

    return GraphSequence("one_peer_exponential", n, period, make, symmetric=n <= 2)


def _equi_static(two_way: bool) -> Callable[[SequenceOptions], GraphSequence]:
    name = "u_equi_static" if two_way else "d_equi_static"

    def build(options: SequenceOptions) -> GraphSequence:
        n, seed, draws = options.nodes, options.seed, options.draws
        mixing = equitopo.equi_static(n, seed, draws, two_way=two_way)
        return GraphSequence(name, n, 1, lambda _: mixing, symmetric=two_way)

    return build


def _od_equi_dyn(options: SequenceOptions) -> GraphSequence:
    n, seed, step = options.nodes, options.seed, options.step or 0.5
    return GraphSequence(
        "od_equi_dyn", n, None,
        lambda k: equitopo.od_equi_dyn(n, seed, k, step),
        symmetric=False, rho_ms=lambda: equitopo.od_rho_ms(n, step),
    )  # fmt: skip


def _ou_equi_dyn(options: SequenceOptions) -> GraphSequence:
    n, seed, step = options.nodes, options.seed, options.step or 0.5
    return GraphSequence(
        "ou_equi_dyn", n, None,
        lambda k: equitopo.ou_equi_dyn(n, seed, k, step),
        rho_ms=(lambda: equitopo.ou_rho_ms(n, step)) if n <= OU_FORMULA_MAX else None,
    )  # fmt: skip


def _base(options: SequenceOptions) -> GraphSequence:
    rounds = base_graph(options.nodes, 1 if options.peers is None else options.peers)
    return GraphSequence("base", options.nodes, len(rounds), rounds.__getitem__)


def _el_oracle(options: SequenceOptions) -> GraphSequence:
    n, seed = options.nodes, options.seed
    sends = options.sends
    if sends is None:
        sends = max(n.bit_length() - 1, min(1, n - 1))
        sends -= n * sends % 2 and (1 if sends > 1 else -1)
    else:
        epidemic.check_sends(n, sends, in_pairs=True)
    count = sends
    epidemic.el_oracle(n, seed, 0, count)  # refuses now what it would refuse in round 0
    return GraphSequence(
        "el_oracle", n, None,
        lambda k: epidemic.el_oracle(n, seed, k, count),
        rho_ms=lambda: epidemic.oracle_rho_ms(n, count),
    )  # fmt: skip


def _el_local(options: SequenceOptions) -> GraphSequence:
    n, seed = options.nodes, options.seed
    sends = n.bit_length() - 1 if options.sends is None else options.sends
    epidemic.check_sends(n, sends)
    return GraphSequence(
        "el_local", n, None,
        lambda k: epidemic.el_local(n, seed, k, sends),
        doubly_stochastic=False, symmetric=False,
        rho_ms=lambda: epidemic.local_rho_ms(n, sends),
    )  # fmt: skip


SEQUENCES: Final[dict[str, SequenceKind]] = {
    "one_peer_exponential": SequenceKind(
        _one_peer_exponential, "one peer a round: i sends to i + 1, then 2, 4, 8, ..."
    ),
    "base": SequenceKind(_base, "exact averaging in few rounds of at most k peers, any n"),
    "d_equi_static": SequenceKind(_equi_static(False), "directed random shifts, always the same"),
    "u_equi_static": SequenceKind(_equi_static(True), "random shifts both ways, always the same"),
    "od_equi_dyn": SequenceKind(_od_equi_dyn, "one random shift a round: one peer, directed"),
    "ou_equi_dyn": SequenceKind(_ou_equi_dyn, "random pairs a round: one peer, both ways"),
    "el_oracle": SequenceKind(_el_oracle, "a fresh random regular graph a round"),
    "el_local": SequenceKind(_el_local, "each sends to s random others a round; the mean drifts"),
}


def kinds() -> Mapping[str, GraphKind | SequenceKind]:
    """Return every graph and every sequence by name."""
    return {**GRAPHS, **SEQUENCES}
