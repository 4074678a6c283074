"""Where this node stands in the swarm: its number, its neighbours, its row of W, its share.

Invariant: every node computes the same graph from the same config and peer list; the
fingerprint, which travels with each message, shows where two nodes did not.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import xxhash

from gossipnode.algorithms.base import Row
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology import Graph, build_graph, weight_row


@dataclass(frozen=True, slots=True)
class Place:
    """This node's place. ``row`` is None where peers are random.

    ``lead_max`` is by how many rounds a sender can be ahead in lockstep, ``room`` how many
    models may wait for each that it sends to, since all of them are wanted.
    """

    id: str
    index: int
    nodes: int
    out_neighbours: tuple[str, ...] = ()
    row: Row | None = None
    graph: str | None = None
    lead_max: int = 1
    room: Mapping[str, int] = field(default_factory=dict)


def find_place(config: Config, peers: Sequence[PeerEntry]) -> Place:
    """Return this node's place; raises ``ConfigError`` where the peer list has none for it."""
    ids = [entry.id for entry in peers]
    node_id = config.node.id or host_id()
    if config.topology.graph == "random":
        # One that joins later is in no list: its number, from its id, is unlike the others'.
        index = ids.index(node_id) if node_id in ids else xxhash.xxh3_64_intdigest(node_id.encode())
        return Place(node_id, index, max(len(ids), 1))
    if node_id not in ids:
        raise ConfigError(
            f"{node_id!r} is not in the peer list, and {config.algorithm.name} on a "
            f"{config.topology.graph} needs to know its place",
            file=config.swarm.peers or None,
            key="node.id",
            allowed=", ".join(ids) or "none: set swarm.peers (--peers) to a peers.toml",
            nearest=nearest_spelling(node_id, ids),
        )
    i = ids.index(node_id)
    graph = _graph(config, ids)
    rule = config.topology.weights
    if rule == "auto":
        rule = "uniform" if graph.directed else "metropolis"
    self_weight, weights = weight_row(graph, i, rule)
    return Place(
        id=node_id,
        index=i,
        nodes=len(ids),
        out_neighbours=tuple(ids[j] for j in graph.out_neighbours[i]),
        row=Row(self_weight, {ids[j]: w for j, w in weights.items()}),
        graph=graph.fingerprint(ids, rule),
        lead_max=_lead_max(graph, i),
        room={ids[j]: room for j, room in _room(graph, i).items()},
    )


def share_of(config: Config, place: Place) -> tuple[int, int]:
    """Return (index, count): which share of a common data file is this node's."""
    share = config.data.share
    if share == "all":
        return 0, 1
    if share == "auto":
        return place.index % place.nodes, place.nodes
    index, count = (int(word) for word in share.split("/"))
    if index >= count:
        raise ConfigError(
            f"share {index} of {count}",
            key="data.share",
            allowed=f"0/{count} to {count - 1}/{count}",
        )
    return index, count


def host_id() -> str:
    """Return the host name as a node id."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in platform.node()) or "node"


def _graph(config: Config, ids: Sequence[str]) -> Graph:
    topology = config.topology
    edges = None
    if topology.graph == "explicit":
        _numbers(tuple(topology.neighbours), "", ids)
        edges = [_numbers(topology.neighbours.get(i, ()), i, ids) for i in ids]
    return build_graph(
        topology.graph,
        len(ids),
        seed=config.swarm.seed,
        probability=topology.probability,
        degree=topology.degree,
        rows=topology.rows,
        edges=edges,
    )


def _numbers(neighbours: Sequence[str], of: str, ids: Sequence[str]) -> list[int]:
    for j in neighbours:
        if j not in ids:
            raise ConfigError(
                f"{j!r} is not in the peer list",
                key=f"topology.neighbours.{of}".rstrip("."),
                nearest=nearest_spelling(j, ids),
            )
    return [ids.index(j) for j in neighbours]


def _lead_max(graph: Graph, i: int) -> int:
    """Return the longest way from ``i`` to one that sends to it.

    A sender j at round k has heard, over that way, of round k − distance at ``i``.
    """
    distance = _distances(graph.out_neighbours, i)
    return max((distance.get(j, 1) for j in graph.in_neighbours[i]), default=1)


def _room(graph: Graph, i: int) -> dict[int, int]:
    """Return for each that ``i`` sends to one more than its distance back to ``i``.

    By as many rounds ``i`` can run ahead of it in lockstep, and all their models are wanted.
    """
    distance = _distances(graph.in_neighbours, i)
    return {j: 1 + distance.get(j, 1) for j in graph.out_neighbours[i]}


def _distances(rows: Sequence[Sequence[int]], i: int) -> dict[int, int]:
    """Return how many steps along ``rows`` each node is from ``i``, by breadth-first search."""
    distance, frontier, steps = {i: 0}, [i], 0
    while frontier:
        steps += 1
        frontier = sorted({j for node in frontier for j in rows[node]} - distance.keys())
        distance.update(dict.fromkeys(frontier, steps))
    return distance
