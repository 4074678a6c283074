"""A fixed communication graph on nodes 0 to n - 1.

Invariant: neighbour lists are sorted, hold no node twice and never the node itself; an undirected
graph lists each edge at both ends. Weights may not enter: see ``weights``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import xxhash


@dataclass(frozen=True)
class Graph:
    """Who sends to whom: ``out_neighbours[i]`` is what node ``i`` sends to.

    Where ``directed`` is false, who is sent to also sends.
    """

    name: str
    nodes: int
    out_neighbours: tuple[tuple[int, ...], ...]
    directed: bool = False

    @classmethod
    def from_edges(
        cls, name: str, nodes: int, edges: Iterable[tuple[int, int]], *, directed: bool = False
    ) -> Graph:
        """Build a graph of edges (from, to); repeated edges count once, loops not at all."""
        found: list[set[int]] = [set() for _ in range(nodes)]
        for i, j in edges:
            if i != j:
                found[i].add(j)
                if not directed:
                    found[j].add(i)
        return cls(name, nodes, tuple(tuple(sorted(row)) for row in found), directed)

    @cached_property
    def in_neighbours(self) -> tuple[tuple[int, ...], ...]:
        """Whom each node receives from."""
        if not self.directed:
            return self.out_neighbours
        found: list[list[int]] = [[] for _ in range(self.nodes)]
        for i, row in enumerate(self.out_neighbours):
            for j in row:
                found[j].append(i)
        return tuple(tuple(row) for row in found)

    @cached_property
    def degree_max(self) -> int:
        """The largest out-degree."""
        return max(len(row) for row in self.out_neighbours)

    @cached_property
    def is_balanced(self) -> bool:
        """Whether every node sends to as many as it receives from."""
        pairs = zip(self.in_neighbours, self.out_neighbours, strict=True)
        return not self.directed or all(len(a) == len(b) for a, b in pairs)

    def neighbours(self, i: int) -> tuple[int, ...]:
        """Return every node adjacent to ``i``, in either direction."""
        if not self.directed:
            return self.out_neighbours[i]
        return tuple(sorted({*self.in_neighbours[i], *self.out_neighbours[i]}))

    def degree(self, i: int) -> int:
        """Return d_i, the number of nodes that ``i`` sends to."""
        return len(self.out_neighbours[i])

    def is_connected(self) -> bool:
        """Tell whether every node reaches every other along the edges' direction."""
        reached = _reached(self.out_neighbours)
        if self.directed:
            reached = min(reached, _reached(self.in_neighbours))
        return reached == self.nodes

    def fingerprint(self, ids: Sequence[str] = (), rule: str = "") -> str:
        """Return 16 hexadecimal digits that nodes compare before they mix.

        Two graphs have the same one if the same ``ids`` (one per node; none: the numbers) are
        joined by the same edges under the same weight ``rule``. The graph's name and the order
        in which a node lists its peers do not count.
        """
        assert not ids or len(set(ids)) == len(ids) == self.nodes, "one id per node"
        order = sorted(range(self.nodes), key=ids.__getitem__) if ids else list(range(self.nodes))
        rank = {node: place for place, node in enumerate(order)}
        digest = xxhash.xxh3_64()
        digest.update(struct.pack("<I?", self.nodes, self.directed))
        for text in (rule, *(ids[node] for node in order if ids)):
            encoded = text.encode()
            digest.update(struct.pack("<I", len(encoded)) + encoded)
        for node in order:
            row = sorted(rank[j] for j in self.out_neighbours[node])
            digest.update(struct.pack(f"<{len(row) + 1}I", len(row), *row))
        return digest.hexdigest()


def _reached(rows: Sequence[Sequence[int]]) -> int:
    """Return how many nodes, 0 included, node 0 reaches."""
    seen = {0}
    frontier = [0]
    while frontier:
        frontier = [j for i in frontier for j in rows[i]]
        frontier = [j for j in dict.fromkeys(frontier) if j not in seen]
        seen.update(frontier)
    return len(seen)
