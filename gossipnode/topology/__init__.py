"""Who talks to whom and with what weight: graphs, mixing weights, peer sampling.

Invariant: the same arguments give the same graph and the same weights on every node and platform.
Sockets, clocks, files and global randomness may not enter.
"""

from gossipnode.topology.graphs import GRAPHS, Graph, build_graph
from gossipnode.topology.mixing import Mixing
from gossipnode.topology.sampling import PeerSampler
from gossipnode.topology.sequences import SEQUENCES, GraphSequence, build_sequence
from gossipnode.topology.weights import RULES, mixing_matrix, weight_matrix, weight_row

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
