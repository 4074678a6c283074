"""Spanning trees: the fewest edges that join all nodes, the same ones wherever they are computed.

Invariant: a tree of n nodes has n − 1 edges, all of them the graph's. Weights may not enter.
"""

from __future__ import annotations

from gossipnode.topology.graph import Graph


def spanning_tree(graph: Graph, root: int = 0) -> Graph:
    """Return the tree that breadth-first search from ``root`` finds; a tree's is itself.

    The graph goes both ways and is connected. Each node hangs from the neighbour with the least
    number among those nearest to ``root``, so no node is further from ``root`` than in the graph.
    """
    assert not graph.directed
    assert graph.is_connected()
    edges: list[tuple[int, int]] = []
    seen, frontier = {root}, [root]
    while frontier:
        below = []
        for i in frontier:
            for j in graph.out_neighbours[i]:
                if j not in seen:
                    seen.add(j)
                    edges.append((i, j))
                    below.append(j)
        frontier = sorted(below)
    return Graph.from_edges(f"tree of {graph.name}", graph.nodes, edges)
