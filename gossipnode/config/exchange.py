"""Options of what neighbours exchange: along which graph, with what weights, how small."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from gossipnode.options import Section, option

GraphName = Literal[
    "random",
    "ring",
    "chain",
    "grid",
    "torus",
    "star",
    "complete",
    "hypercube",
    "exponential",
    "erdos_renyi",
    "random_regular",
    "random_geometric",
    "small_world",
    "explicit",
    "one_peer_exponential",
    "base",
    "d_equi_static",
    "u_equi_static",
    "od_equi_dyn",
    "ou_equi_dyn",
    "el_oracle",
    "el_local",
]
# These bring weights of their own; those of the second line change from round to round.
OWN_WEIGHTS = frozenset({"d_equi_static", "u_equi_static"})
DIRECTED = frozenset({"exponential", "d_equi_static"})
CHANGING = frozenset(
    {"one_peer_exponential", "base", "od_equi_dyn", "ou_equi_dyn", "el_oracle", "el_local"}
)
# What arrives is averaged, whoever sends: only the rows add to one.
ROW_STOCHASTIC = frozenset({"el_local"})


class TopologyOptions(Section):
    """Who talks to whom, and with what weight. Options that a graph has no use for are ignored."""

    graph: GraphName = option(
        "ring",
        "The graph, or the sequence of graphs, one a round, that the nodes talk along (see "
        "docs/topologies.md); random: any peer (gossip only).",
        flag="--topology",
    )
    weights: Literal["auto", "metropolis", "uniform", "max_degree", "best_constant"] = option(
        "auto",
        "w_ij of an edge. metropolis: 1/(1+max(d_i,d_j)); uniform: 1/(1+d_max); max_degree: 1/n; "
        "best_constant: 2/(λ_max+λ_2) of the Laplacian; auto: metropolis, or uniform where the "
        "graph is directed, or the sequence's own. Only el_local's are not doubly stochastic.",
        flag="--weights",
    )
    lazy: bool = option(False, "Mix with (I + W)/2: slower, and no negative eigenvalue.")
    degree: int = option(
        4, "Degree of random_regular and small_world.", unit="neighbours", ge=1, le=100_000
    )
    probability: float | None = option(
        None, "Edge probability of erdos_renyi; unset: 2 ln n / n.", gt=0.0, le=1.0
    )
    rows: int | None = option(
        None, "Rows of grid and torus; unset: as square as n allows.", ge=1, le=100_000
    )
    radius: float | None = option(
        None, "random_geometric: who is nearer on a unit square talks; unset: √(2 ln n / n).",
        gt=0.0, le=1.5,
    )  # fmt: skip
    rewiring: float | None = option(
        None, "Share of small_world's edges that lead far; unset: 0.1.", ge=0.0, le=1.0
    )
    peers: int | None = option(
        None, "base: at most so many neighbours a round; unset: 1.", unit="peers", ge=1, le=100_000
    )
    draws: int | None = option(
        None,
        "Random shifts in d_equi_static and u_equi_static; unset: ⌈log₂ n⌉.",
        unit="shifts",
        ge=1,
        le=100_000,
    )
    step: float | None = option(
        None, "η of od_equi_dyn and ou_equi_dyn: how much the peer counts; unset: 0.5.",
        gt=0.0, le=1.0,
    )  # fmt: skip
    sends: int | None = option(
        None,
        "el_oracle and el_local: peers that a node sends to in a round; unset: ⌊log₂ n⌋.",
        unit="peers",
        ge=1,
        le=100_000,
    )
    neighbours: dict[str, tuple[str, ...]] = option(
        {},
        "explicit: whom each node sends to, by id; unless `directed`, an edge is listed at both "
        "its ends.",
    )
    edges: str = option(
        "",
        "explicit, in place of `neighbours`: path of an edge list, relative to this file; two ids "
        "a line, # begins a comment.",
    )
    directed: bool = option(False, "explicit: edges lead one way, from a node to its neighbours.")

    @property
    def changes(self) -> bool:
        """Whether the graph is another one each round."""
        return self.graph in CHANGING

    @property
    def has_own_weights(self) -> bool:
        """Whether no rule gives the weights."""
        return self.graph in OWN_WEIGHTS or self.changes

    @model_validator(mode="after")
    def _fits_together(self) -> TopologyOptions:
        if self.has_own_weights and self.weights != "auto":
            raise ValueError(
                f"topology.weights is {self.weights}, but {self.graph} has its own weights; leave "
                "weights at auto, or choose a graph such as torus or exponential"
            )
        if self.graph == "explicit" and bool(self.neighbours) == bool(self.edges):
            raise ValueError(
                "topology.graph explicit needs its edges once: the table [topology.neighbours], "
                "or topology.edges, the path of an edge list"
            )
        return self


class CodecOptions(Section):
    """What makes messages smaller. Each algorithm takes the codecs that are sound for it."""

    name: Literal[
        "none", "topk", "randomk", "sign", "qsgd", "uniform", "float16", "bfloat16", "lowrank"
    ] = option(
        "none",
        "The codec (docs/compression.md): the largest values, random ones, signs, stochastic "
        "levels, stochastic bits, 16-bit floats, or products of thin matrices. Differences are "
        "made smaller; models only where that loses nothing.",
        flag="--codec",
    )
    fraction: float = option(
        0.01, "topk and randomk: share of the values that is sent.", flag="--codec-fraction",
        gt=0.0, le=1.0,
    )  # fmt: skip
    bits: int = option(
        0,
        "uniform: bits of a value, 1 to 8; unset: 8. topk: bits of each value sent, 1 (its sign), "
        "4, 8, 16 or 32; unset: 32, 64 of float64 params.",
        unit="bits",
        flag="--codec-bits",
        ge=0,
        le=64,
    )
    adaptive: bool = option(
        False,
        "uniform, with choco: choose bits from 2, 4 and 8 by how fast this node computes and "
        "sends, beside its neighbours.",
        flag="--codec-adaptive",
    )
    levels: int = option(
        16, "qsgd: levels of a magnitude (s).", unit="levels", flag="--codec-levels", ge=1, le=127
    )
    rank: int = option(
        2, "lowrank and powersgd: columns of the thin matrices.",
        unit="columns", flag="--codec-rank", ge=1, le=1024,
    )  # fmt: skip
    feedback: bool = option(
        True,
        "Send what an earlier message left out with the next one (error feedback), where "
        "differences to a common model are sent. Clients of federated and fedbuff can do without "
        "it where the codec is right on average: qsgd, randomk or uniform.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> CodecOptions:
        allowed = {"uniform": range(9), "topk": (0, 1, 4, 8, 16, 32, 64)}.get(self.name)
        if allowed is not None and self.bits not in allowed:
            raise ValueError(
                f"codec.bits is {self.bits}, but {self.name} takes "
                + ("1 to 8" if self.name == "uniform" else "1, 4, 8, 16 or 32")
            )
        if self.adaptive and self.name != "uniform":
            raise ValueError(
                f"codec.adaptive chooses the bits of uniform, and codec.name is {self.name}"
            )
        return self
