"""Who talks to whom and with what weight: graphs, mixing weights, peer sampling.

Invariant: the same arguments give the same graph and the same weights on every node and platform.
Sockets, clocks, files and global randomness may not enter.
"""

from gossipnode.topology.graphs import GRAPHS, Graph, build_graph
from gossipnode.topology.sampling import PeerSampler
from gossipnode.topology.weights import RULES, weight_matrix, weight_row

__all__ = [
    "GRAPHS",
    "RULES",
    "Graph",
    "PeerSampler",
    "build_graph",
    "weight_matrix",
    "weight_row",
]
