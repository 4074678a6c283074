"""The peer list, and the graph on it: what all nodes of a swarm have in common.

One object serves every node of a process, so that ten thousand simulated nodes hold one list and
one graph. Invariant: it never changes; what a node learns about its peers is in its ``PeerTable``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology import Graph, build_graph


class Directory(Sequence[PeerEntry]):
    """All nodes in the order of the peer list, by number and by id."""

    def __init__(self, entries: Sequence[PeerEntry] = ()) -> None:
        self.entries = tuple(entries)
        self.ids = tuple(entry.id for entry in self.entries)
        self.number = {peer_id: number for number, peer_id in enumerate(self.ids)}
        self._graphs: dict[str, tuple[Graph, str, str]] = {}

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

        Built once for all nodes with the same options. Raises ``ConfigError``.
        """
        key = f"{config.swarm.seed} {config.topology.model_dump_json()}"
        if key not in self._graphs:
            graph = self._build(config)
            rule = config.topology.weights
            if rule == "auto":
                rule = "uniform" if graph.directed else "metropolis"
            self._graphs[key] = graph, rule, graph.fingerprint(self.ids, rule)
        return self._graphs[key]

    def _build(self, config: Config) -> Graph:
        topology = config.topology
        edges = None
        if topology.graph == "explicit":
            self._numbers(tuple(topology.neighbours), "")
            edges = [self._numbers(topology.neighbours.get(i, ()), i) for i in self.ids]
        return build_graph(
            topology.graph,
            len(self.ids),
            seed=config.swarm.seed,
            probability=topology.probability,
            degree=topology.degree,
            rows=topology.rows,
            edges=edges,
        )

    def _numbers(self, neighbours: Sequence[str], of: str) -> list[int]:
        for j in neighbours:
            if j not in self.number:
                raise ConfigError(
                    f"{j!r} is not in the peer list",
                    key=f"topology.neighbours.{of}".rstrip("."),
                    nearest=nearest_spelling(j, self.ids),
                )
        return [self.number[j] for j in neighbours]
