"""The peer list, and the graph on it: what all nodes of a swarm have in common.

One object serves every node of a process, so that ten thousand simulated nodes hold one list and
one graph. Invariant: it never changes; what a node learns about its peers is in its ``PeerTable``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import xxhash

from gossipnode.config import Config, PeerEntry, TopologyOptions
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, DataError, nearest_spelling
from gossipnode.topology import Graph, build_graph
from gossipnode.topology.weights import OUT_DEGREE, default_rule

if TYPE_CHECKING:
    from gossipnode.topology import GraphSequence

# What each sequence looks at besides the number of nodes: only that must agree between nodes.
SEQUENCE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "one_peer_exponential": (),
    "base": ("peers",),
    "d_equi_static": ("seed", "draws"),
    "u_equi_static": ("seed", "draws"),
    "od_equi_dyn": ("seed", "step"),
    "ou_equi_dyn": ("seed", "step"),
    "el_oracle": ("seed", "sends"),
    "el_local": ("seed", "sends"),
}


class Directory(Sequence[PeerEntry]):
    """All nodes in the order of the peer list, by number and by id."""

    def __init__(self, entries: Sequence[PeerEntry] = ()) -> None:
        self.entries = tuple(entries)
        self.ids = tuple(entry.id for entry in self.entries)
        self.number = {peer_id: number for number, peer_id in enumerate(self.ids)}
        self._graphs: dict[str, tuple[Graph, str, str]] = {}
        self._sequences: dict[str, GraphSequence] = {}
        self._trees: dict[str, Graph] = {}
        self._checked: set[str] = set()
        self._at: dict[str, str] | None = None

    @classmethod
    def of(cls, entries: Sequence[PeerEntry]) -> Directory:
        """Return ``entries`` themselves where they are a directory already."""
        return entries if isinstance(entries, Directory) else cls(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self.number

    def __iter__(self) -> Iterator[PeerEntry]:
        return iter(self.entries)

    @overload
    def __getitem__(self, index: int) -> PeerEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PeerEntry]: ...
    def __getitem__(self, index: int | slice) -> PeerEntry | Sequence[PeerEntry]:
        return self.entries[index]

    def graph(self, config: Config) -> tuple[Graph, str, str]:
        """Return the config's graph on this list, its weight rule and its fingerprint.

        For graphs that stay; ``sequence`` serves all. The rule is "own" where the graph brings
        its weights along, ``OUT_DEGREE`` where no W need be and none can. Built once for all
        nodes with the same options. Raises ``ConfigError`` and ``DataError``.
        """
        key, topology = _key(config), config.topology
        assert not topology.changes, f"{topology.graph} is another graph each round"
        if key not in self._graphs:
            if topology.has_own_weights:
                graph, rule = self._own_graph(config), "own"
                told = self.fingerprint(config)
            else:
                graph = self._build(config)
                rule = _rule(config, graph)
                lazy_rule = f"lazy {rule}" if topology.lazy else rule
                told = graph.fingerprint(self.ids, lazy_rule)
            self._graphs[key] = graph, rule, told
        return self._graphs[key]

    def name_of(self, node_id: str) -> str:
        """Return the name that the list gives a node, for people; often there is none."""
        number = self.number.get(node_id)
        return "" if number is None else self.entries[number].name

    def at(self, address: str) -> str | None:
        """Return the id of the node that is listed at ``address``."""
        if self._at is None:
            self._at = {entry.address: entry.id for entry in self.entries}
        return self._at.get(address)

    def tree(self, config: Config) -> Graph:
        """Return the spanning tree of the config's graph, from the first node; see ``trees``.

        For graphs that stay and go both ways. Built once for all nodes with the same options.
        """
        from gossipnode.topology.trees import spanning_tree

        key = _key(config)
        if key not in self._trees:
            self._trees[key] = spanning_tree(self.graph(config)[0])
        return self._trees[key]

    def sequence(self, config: Config) -> GraphSequence:
        """Return W for each round of the config's graph, whichever it is; ``random`` has none.

        Built once for all nodes with the same options. Raises ``ConfigError`` and ``DataError``.
        """
        # Here, not above: 10 ms that a node on a graph that stays never pays.
        from gossipnode.topology.sequences import build_sequence, static_sequence

        key, topology = _key(config), config.topology
        if key not in self._sequences:
            if topology.has_own_weights:
                self._sequences[key] = build_sequence(
                    topology.graph,
                    len(self.ids),
                    seed=config.swarm.seed,
                    lazy=topology.lazy,
                    peers=topology.peers,
                    draws=topology.draws,
                    step=topology.step,
                    sends=topology.sends,
                )
            else:
                graph, rule, _ = self.graph(config)
                self._sequences[key] = static_sequence(graph, rule, lazy=topology.lazy)
        return self._sequences[key]

    def check(self, config: Config) -> None:
        """Raise ``ConfigError`` where the algorithm cannot bear the config's W."""
        needs, key = config.algorithm.needs(), _key(config)
        if needs.lambda_min is None:
            return
        if key not in self._checked and len(self) > 1:
            from gossipnode.topology.eigen import smallest

            low = smallest(self.sequence(config).at(0))
            # A graph that is exactly at the limit must not be refused for a rounding.
            if low < needs.lambda_min - 1e-9:
                raise ConfigError(
                    f"{config.algorithm.called} diverges on this W: its least eigenvalue is "
                    f"{low:.3f}, below {needs.lambda_min:.3f}",
                    key="algorithm.name",
                    allowed=needs.instead,
                )
            self._checked.add(key)

    def fingerprint(self, config: Config) -> str:
        """Return 16 hexadecimal digits that nodes compare before they mix.

        Of a graph that rules weigh: its edges, rule and ids. Of others, whose rounds may be
        without number: what decides them, and the ids in order.
        """
        topology = config.topology
        if not topology.has_own_weights:
            return self.graph(config)[2]
        decides = {"seed": config.swarm.seed, **topology.model_dump()}
        told = {
            "graph": topology.graph,
            "lazy": topology.lazy,
            "ids": self.ids,
            **{name: decides[name] for name in SEQUENCE_OPTIONS[topology.graph]},
        }
        return xxhash.xxh3_64_hexdigest(json.dumps(told, sort_keys=True).encode())

    def _own_graph(self, config: Config) -> Graph:
        """Return the graph of shifts that were drawn once; they may miss some nodes."""
        graph = self.sequence(config).graph(0)
        if not graph.is_connected():
            raise ConfigError(
                f"the shifts that seed {config.swarm.seed} draws do not connect {graph.nodes} "
                "nodes",
                key="topology.draws",
                allowed="more draws, or another swarm.seed",
            )
        return graph

    def _build(self, config: Config) -> Graph:
        topology = config.topology
        return build_graph(
            topology.graph,
            len(self.ids),
            seed=config.swarm.seed,
            probability=topology.probability,
            degree=topology.degree,
            rows=topology.rows,
            edges=self._edges(topology) if topology.graph == "explicit" else None,
            directed=topology.directed,
            radius=topology.radius,
            rewiring=topology.rewiring,
        )

    def _edges(self, topology: TopologyOptions) -> list[list[int]]:
        """Return an explicit graph's neighbour lists, by number."""
        if topology.edges:
            return self._edges_of_file(topology.edges, directed=topology.directed)
        self._numbers(tuple(topology.neighbours), "")
        return [self._numbers(topology.neighbours.get(i, ()), i) for i in self.ids]

    def _edges_of_file(self, path: str, *, directed: bool) -> list[list[int]]:
        # Here, not above: few graphs come from files.
        from gossipnode.topology.edgelist import parse_edges

        listed = parse_edges(_text(path), directed=directed, file=path)
        for name in listed.ids:
            if name not in self.number:
                raise ConfigError(
                    f"{name!r} is not in the peer list",
                    file=path,
                    allowed=", ".join(self.ids),
                    nearest=nearest_spelling(name, self.ids),
                )
        rows: list[list[int]] = [[] for _ in self.ids]
        for name, row in zip(listed.ids, listed.neighbours, strict=True):
            rows[self.number[name]] = [self.number[listed.ids[j]] for j in row]
        return rows

    def _numbers(self, neighbours: Sequence[str], of: str) -> list[int]:
        for j in neighbours:
            if j not in self.number:
                raise ConfigError(
                    f"{j!r} is not in the peer list",
                    key=f"topology.neighbours.{of}".rstrip("."),
                    nearest=nearest_spelling(j, self.ids),
                )
        return [self.number[j] for j in neighbours]


def _key(config: Config) -> str:
    weights = config.algorithm.needs().weights
    return f"{config.swarm.seed} {weights} {config.topology.model_dump_json()}"


def _rule(config: Config, graph: Graph) -> str:
    """Return the rule for the weights of a graph that has none of its own."""
    if config.topology.weights != "auto":
        return config.topology.weights
    weighs_itself = config.algorithm.needs().weights == "column"
    return OUT_DEGREE if weighs_itself and not graph.is_balanced else default_rule(graph)


def _text(path: str) -> str:
    try:
        return expanded(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=path, key="topology.edges") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is no UTF-8 text at byte {error.start}", file=path) from None
