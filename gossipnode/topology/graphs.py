"""The graphs by name: every node builds the same one from the same options.

Invariant: ``build_graph`` returns a connected graph or raises a ``ConfigError`` that says what
would serve. Weights may not enter: see ``weights``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final, NoReturn

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology.graph import Graph
from gossipnode.topology.random_graphs import (
    Edges,
    erdos_renyi_edges,
    random_geometric_edges,
    random_regular_edges,
    small_world_edges,
)

__all__ = ["GRAPHS", "Graph", "GraphKind", "GraphOptions", "build_graph"]

NeighbourLists = Mapping[int, Sequence[int]] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """What ``build_graph`` was asked for; a graph looks at the options that concern it."""

    nodes: int
    seed: int = 0
    probability: float | None = None
    degree: int | None = None
    rows: int | None = None
    edges: NeighbourLists | None = None
    directed: bool = False
    radius: float | None = None
    rewiring: float | None = None


@dataclass(frozen=True, slots=True)
class GraphKind:
    """A graph of ``GRAPHS``: its builder, one line of help, and which numbers of nodes serve."""

    build: Callable[[GraphOptions], Graph]
    help: str
    serves: str = "any"


def build_graph(
    name: str,
    nodes: int,
    *,
    seed: int = 0,
    probability: float | None = None,
    degree: int | None = None,
    rows: int | None = None,
    edges: NeighbourLists | None = None,
    directed: bool = False,
    radius: float | None = None,
    rewiring: float | None = None,
) -> Graph:
    """Return the graph ``name`` of ``GRAPHS`` on ``nodes`` >= 1 nodes.

    ``seed``: the random ones; ``probability``: erdos_renyi, 2 ln n / n if None;
    ``degree``: random_regular and small_world, 4 if None; ``rows``: grid and torus, near-square if
    None; ``radius``: random_geometric, √(2 ln n / n) if None; ``rewiring``: small_world, 0.1 if
    None; ``edges`` (neighbour lists) and ``directed``: explicit. Other graphs' are ignored.
    Raises ``ConfigError`` naming the option where no such graph exists.
    """
    kind = GRAPHS.get(name)
    if kind is None:
        raise ConfigError(
            f"there is no graph {name!r}",
            key="topology.graph",
            allowed=", ".join(GRAPHS),
            nearest=nearest_spelling(name, GRAPHS),
        )
    if nodes < 1:
        raise ConfigError(f"a graph of {nodes} nodes", key="topology.graph", allowed="1 or more")
    return kind.build(
        GraphOptions(nodes, seed, probability, degree, rows, edges, directed, radius, rewiring)
    )


def _ring(options: GraphOptions) -> Graph:
    """Build edges (i, i+1 mod n)."""
    n = options.nodes
    return Graph.from_edges("ring", n, ((i, (i + 1) % n) for i in range(n)))


def _chain(options: GraphOptions) -> Graph:
    """Build edges (i, i+1)."""
    n = options.nodes
    return Graph.from_edges("chain", n, ((i, i + 1) for i in range(n - 1)))


def _star(options: GraphOptions) -> Graph:
    """Build edges (0, i)."""
    return Graph.from_edges("star", options.nodes, ((0, i) for i in range(1, options.nodes)))


def _complete(options: GraphOptions) -> Graph:
    """Build every edge."""
    n = options.nodes
    return Graph.from_edges("complete", n, ((i, j) for i in range(n) for j in range(i)))


def _grid(options: GraphOptions) -> Graph:
    """Build rows x columns without wrap, nodes numbered row by row."""
    r, c = _shape("grid", options)
    across = [(i * c + j, i * c + j + 1) for i in range(r) for j in range(c - 1)]
    down = [(i * c + j, (i + 1) * c + j) for i in range(r - 1) for j in range(c)]
    return Graph.from_edges("grid", options.nodes, across + down)


def _torus(options: GraphOptions) -> Graph:
    """Build rows x columns with wrap; where a side is 2, both ways round are one edge."""
    r, c = _shape("torus", options)
    across = [(i * c + j, i * c + (j + 1) % c) for i in range(r) for j in range(c)]
    down = [(i * c + j, (i + 1) % r * c + j) for i in range(r) for j in range(c)]
    return Graph.from_edges("torus", options.nodes, across + down)


def _hypercube(options: GraphOptions) -> Graph:
    """Build edges (i, i xor 2^b), n = 2^D."""
    n = options.nodes
    if n & (n - 1):
        below = 1 << (n.bit_length() - 1)
        raise ConfigError(
            f"a hypercube has a power of two of nodes, not {n}",
            key="topology.graph",
            allowed=f"{below} or {2 * below} nodes; ring, torus or exponential with {n}",
        )
    bits = n.bit_length() - 1
    return Graph.from_edges(
        "hypercube", n, ((i, i ^ 1 << b) for i in range(n) for b in range(bits))
    )


def _exponential(options: GraphOptions) -> Graph:
    """Build directed edges i -> i + 2^t mod n for t < ceil(log2 n)."""
    n = options.nodes
    hops = [1 << t for t in range((n - 1).bit_length())]
    edges = ((i, (i + hop) % n) for i in range(n) for hop in hops)
    return Graph.from_edges("exponential", n, edges, directed=True)


def _erdos_renyi(options: GraphOptions) -> Graph:
    """Draw every edge with the same probability, again until connected."""
    n = options.nodes
    draws = erdos_renyi_edges(n, options.seed, options.probability)
    return _first_connected("erdos_renyi", n, draws) or _refuse(
        f"no connected graph of {n} nodes came up at this probability",
        key="topology.probability",
        allowed="at least 2 ln n / n, which is what leaving it out gives",
    )


def _random_regular(options: GraphOptions) -> Graph:
    """Draw a graph in which every node has ``degree`` neighbours, again until connected."""
    n = options.nodes
    degree = 4 if options.degree is None else options.degree
    draws = random_regular_edges(n, options.seed, degree)
    return _first_connected("random_regular", n, draws) or _refuse(
        f"no connected graph of {n} nodes of degree {degree} came up",
        key="topology.degree",
        allowed="2 or more (3 or more for a well-connected graph)",
    )


def _random_geometric(options: GraphOptions) -> Graph:
    """Drop the nodes on the unit square, join those within a radius, again until connected."""
    n = options.nodes
    draws = random_geometric_edges(n, options.seed, options.radius)
    return _first_connected("random_geometric", n, draws) or _refuse(
        f"no connected graph of {n} nodes came up with this radius",
        key="topology.radius",
        allowed="at least √(2 ln n / n), which is what leaving it out gives",
    )


def _small_world(options: GraphOptions) -> Graph:
    """Join each node to its nearest on a ring, move some ends, again until connected."""
    n = options.nodes
    degree = 4 if options.degree is None else options.degree
    rewiring = 0.1 if options.rewiring is None else options.rewiring
    draws = small_world_edges(n, options.seed, degree, rewiring)
    return _first_connected("small_world", n, draws) or _refuse(
        f"no connected small world of {n} nodes of degree {degree} came up",
        key="topology.degree",
        allowed="4 or more, or less rewiring",
    )


def _first_connected(name: str, n: int, draws: Iterable[Edges]) -> Graph | None:
    """Return the first draw that is connected, or None where none is."""
    graphs = (Graph.from_edges(name, n, edges) for edges in draws)
    return next((graph for graph in graphs if graph.is_connected()), None)


def _refuse(problem: str, *, key: str, allowed: str) -> NoReturn:
    raise ConfigError(problem, key=key, allowed=allowed)


def _explicit(options: GraphOptions) -> Graph:
    """Take the neighbour lists as they are: node i sends to edges[i]."""
    rows = _neighbour_rows(options)
    if not options.directed:
        for i, row in enumerate(rows):
            for j in row:
                if i not in rows[j]:
                    raise _bad_edges(
                        f"node {i} lists {j}, but {j} does not list {i}",
                        "an edge at both its ends, or `directed`",
                    )
    graph = Graph("explicit", options.nodes, rows, options.directed)
    if not graph.is_connected():
        raise _bad_edges("the graph is not connected", "a path from every node to every other")
    return graph


def _neighbour_rows(options: GraphOptions) -> tuple[tuple[int, ...], ...]:
    """Return the explicit lists sorted; refuse strangers, loops and repetitions."""
    n, edges = options.nodes, options.edges
    if edges is None:
        raise _bad_edges("an explicit graph needs them", "a list of neighbours for each node")
    listed = edges if isinstance(edges, Mapping) else dict(enumerate(edges))
    strangers = sorted(set(listed) - set(range(n)))
    if strangers:
        raise _bad_edges(f"there is no node {strangers[0]}", f"0 to {n - 1}")
    rows = []
    for i in range(n):
        row = listed.get(i, ())
        for j in row:
            if not 0 <= j < n:
                raise _bad_edges(f"node {i} lists {j}, which is no node", f"0 to {n - 1}")
            if j == i:
                raise _bad_edges(f"node {i} lists itself", "other nodes")
        if len(set(row)) != len(row):
            raise _bad_edges(f"node {i} lists a neighbour twice", "each neighbour once")
        rows.append(tuple(sorted(row)))
    return tuple(rows)


def _bad_edges(problem: str, allowed: str) -> ConfigError:
    """Return the error about explicit neighbour lists."""
    return ConfigError(problem, key="topology.neighbours", allowed=allowed)


def _shape(name: str, options: GraphOptions) -> tuple[int, int]:
    """Return (rows, columns): as asked, else as square as the number of nodes allows."""
    n, rows = options.nodes, options.rows
    if rows is not None:
        if rows < 1 or n % rows:
            divisors = ", ".join(str(r) for r in range(1, n + 1) if n % r == 0)
            raise ConfigError(
                f"{rows} rows do not divide {n} nodes", key="topology.rows", allowed=divisors
            )
        return rows, n // rows
    rows = _rows(n)
    if rows == 1 and n > 2:
        below = next(m for m in range(n - 1, 0, -1) if m <= 2 or _rows(m) > 1)
        above = next(m for m in range(n + 1, 2 * n + 2) if _rows(m) > 1)
        raise ConfigError(
            f"{n} nodes make no {name}, since {n} is prime",
            key="topology.graph",
            allowed=f"{below} or {above} nodes, or rows = 1 for a single line",
        )
    return rows, n // rows


def _rows(n: int) -> int:
    """Return the largest divisor of n that is at most its square root."""
    return next(r for r in range(isqrt(n), 0, -1) if n % r == 0)


GRAPHS: Final[dict[str, GraphKind]] = {
    "ring": GraphKind(_ring, "each node talks to the one before and the one after"),
    "chain": GraphKind(_chain, "a ring without its last edge"),
    "grid": GraphKind(_grid, "rows and columns, without wrap", "not a prime above 2"),
    "torus": GraphKind(_torus, "rows and columns, with wrap", "not a prime above 2"),
    "star": GraphKind(_star, "node 0 talks to all, the others to node 0"),
    "complete": GraphKind(_complete, "everyone talks to everyone"),
    "hypercube": GraphKind(_hypercube, "numbers that differ in one bit talk", "a power of two"),
    "exponential": GraphKind(_exponential, "directed: i sends to i + 1, 2, 4, 8, ..."),
    "erdos_renyi": GraphKind(_erdos_renyi, "each edge with the same probability"),
    "random_regular": GraphKind(
        _random_regular,
        "random edges, the same degree everywhere",
        "more than the degree, and nodes times degree even",
    ),
    "random_geometric": GraphKind(
        _random_geometric, "points on a square; those close to each other talk"
    ),
    "small_world": GraphKind(
        _small_world, "a ring of near neighbours with some far ones", "more than the degree"
    ),
    "explicit": GraphKind(_explicit, "neighbours listed by hand"),
}
