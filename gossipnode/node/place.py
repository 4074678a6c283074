"""Where this node stands in the swarm: its number, its neighbours, its row of W, its share.

Invariant: every node computes the same graph from the same config and peer list; the
fingerprint, which travels with each message, shows where two nodes did not.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from gossipnode.algorithms.base import Row
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.node.directory import Directory
from gossipnode.topology import Graph, weight_row
from gossipnode.topology.weights import OUT_DEGREE, share_column

if TYPE_CHECKING:
    from gossipnode.node.rounds import Rounds

Weights = dict[int, float]


@dataclass(frozen=True, slots=True)
class Place:
    """This node's place. ``row`` is None where peers are random or change each round.

    ``rounds`` are the neighbours of each round where they change; ``out_neighbours`` then whom
    this node sends to in any, or nobody where rounds never repeat. ``senders`` are all that may
    send here; None: anybody. ``lead_max`` is by how many rounds a sender can be ahead in
    lockstep, ``room`` how many models may wait for each that it sends to, since all of them are
    wanted. ``shares`` is this node's column, what it hands to each that it sends to, for
    algorithms that weigh that themselves; where that changes each round, ``rounds`` have it.
    """

    id: str
    index: int
    nodes: int
    out_neighbours: tuple[str, ...] = ()
    row: Row | None = None
    graph: str | None = None
    lead_max: int = 1
    room: Mapping[str, int] = field(default_factory=dict)
    senders: Collection[str] | None = None
    rounds: Rounds | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


def find_place(config: Config, peers: Sequence[PeerEntry], node_id: str = "") -> Place:
    """Return the place of ``node_id``, by default the config's.

    Raises ``ConfigError`` where the peer list has none for it.
    """
    directory = Directory.of(peers)
    ids, node_id = directory.ids, node_id or config.node.id or host_id()
    i = directory.number.get(node_id)
    if config.topology.graph == "random":
        # One that joins later is in no list: its number, from its id, is unlike the others'.
        index = xxhash.xxh3_64_intdigest(node_id.encode()) if i is None else i
        return Place(node_id, index, max(len(ids), 1))
    if i is None:
        where, advice = "in the peer list", ""
        if config.trust.bundle and not config.swarm.peers:
            where = "among its bundle's seeds"
            advice = "; gossipnode ca issue NAME=HOST:PORT makes one that is"
        raise ConfigError(
            f"{node_id!r} is not {where}, and {config.algorithm.called} on a "
            f"{config.topology.graph} needs to know its place{advice}",
            file=config.swarm.peers or None,
            key="node.id",
            allowed=", ".join(ids) or "none: set swarm.peers (--peers) to a peers.toml",
            nearest=nearest_spelling(node_id, ids),
        )
    if config.topology.changes:
        return _place_in_sequence(config, directory, i)
    directory.check(config)
    return _place_in_graph(config, directory, i)


def _place_in_graph(config: Config, directory: Directory, i: int) -> Place:
    """Return the place of node ``i`` on a graph that stays."""
    ids = directory.ids
    graph, rule, fingerprint = directory.graph(config)
    self_weight, weights = _row(config, directory, i)
    row = Row(self_weight, {ids[j]: w for j, w in weights.items()})
    shares: Weights = {}
    if config.algorithm.needs().weights == "column":
        mixing = directory.sequence(config).at(0) if rule == "own" else None
        lazy = config.topology.lazy
        column = mixing.column(i) if mixing else share_column(graph, i, rule, lazy=lazy)
        shares = column[1]
    return Place(
        id=ids[i],
        index=i,
        nodes=len(ids),
        out_neighbours=tuple(ids[j] for j in graph.out_neighbours[i]),
        row=row,
        graph=fingerprint,
        lead_max=_lead_max(graph, i),
        room={ids[j]: room for j, room in _room(graph, i).items()},
        senders=row.weights,
        shares={ids[j]: share for j, share in shares.items()},
    )


def _row(config: Config, directory: Directory, i: int) -> tuple[float, Weights]:
    """Return row ``i`` of W or, where none need be, p_ii and p_ij: what the others hand to ``i``.

    The latter need not add to one; whom ``i`` hears from is what matters of it.
    """
    graph, rule, _ = directory.graph(config)
    lazy = config.topology.lazy
    if rule == "own":
        return directory.sequence(config).at(0).row(i)
    if rule != OUT_DEGREE:
        return weight_row(graph, i, rule, lazy=lazy)
    handed = {j: share_column(graph, j, rule, lazy=lazy)[1][i] for j in graph.in_neighbours[i]}
    return share_column(graph, i, rule, lazy=lazy)[0], handed


def _place_in_sequence(config: Config, directory: Directory, i: int) -> Place:
    """Return the place of node ``i`` on a graph that changes each round."""
    # Here, not above: with the sequences it takes 10 ms that most nodes need not pay.
    from gossipnode.node.rounds import Rounds

    rounds = Rounds(directory.sequence(config), directory, i)
    return Place(
        id=directory.ids[i],
        index=i,
        nodes=len(directory),
        out_neighbours=rounds.ever,
        graph=directory.fingerprint(config),
        lead_max=rounds.lead_max,
        room=rounds.room,
        senders=rounds.senders,
        rounds=rounds,
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


def _lead_max(graph: Graph, i: int) -> int:
    """Return the longest way from ``i`` to one that sends to it.

    A sender j at round k has heard, over that way, of round k − distance at ``i``.
    """
    if not graph.directed:
        return 1
    distance = _distances(graph.out_neighbours, i)
    return max((distance.get(j, 1) for j in graph.in_neighbours[i]), default=1)


def _room(graph: Graph, i: int) -> dict[int, int]:
    """Return for each that ``i`` sends to one more than its distance back to ``i``.

    By as many rounds ``i`` can run ahead of it in lockstep, and all their models are wanted.
    """
    if not graph.directed:
        return dict.fromkeys(graph.out_neighbours[i], 2)
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
