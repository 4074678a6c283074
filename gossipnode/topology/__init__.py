"""Who talks to whom and with what weight: graphs, mixing weights, peer sampling.

Invariant: the same arguments give the same graph and the same weights on every node and platform.
Sockets, clocks, files and global randomness may not enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gossipnode.topology.graphs import GRAPHS, Graph, build_graph
from gossipnode.topology.mixing import Mixing
from gossipnode.topology.sampling import PeerSampler
from gossipnode.topology.weights import RULES, mixing_matrix, weight_matrix, weight_row

if TYPE_CHECKING:
    from gossipnode.topology.sequences import SEQUENCES, GraphSequence, build_sequence

__all__ = [
    "GRAPHS",
    "RULES",
    "SEQUENCES",
    "Graph",
    "GraphSequence",
    "Mixing",
    "PeerSampler",
    "build_graph",
    "build_sequence",
    "mixing_matrix",
    "weight_matrix",
    "weight_row",
]


def __getattr__(name: str) -> Any:
    """Import ``sequences`` when it is asked for: 10 ms that a node on a fixed graph never pays."""
    if name not in ("SEQUENCES", "GraphSequence", "build_sequence"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gossipnode.topology import sequences

    return getattr(sequences, name)
