"""Spanning trees: what they are of a graph, and that each is found alike."""

from __future__ import annotations

import numpy as np
import pytest

from gossipnode.topology import build_graph
from gossipnode.topology.graph import Graph
from gossipnode.topology.trees import spanning_tree


def distances(graph: Graph) -> np.ndarray:
    """Return how many edges each node is from each, by powers of the adjacency matrix."""
    n = graph.nodes
    adjacent = np.eye(n, dtype=int)
    for i, row in enumerate(graph.out_neighbours):
        adjacent[i, list(row)] = 1
    found, reached = np.full((n, n), -1), np.eye(n, dtype=int)
    for steps in range(n):
        found[(found < 0) & (reached > 0)] = steps
        reached = np.minimum(reached @ adjacent, 1)
    return found


@pytest.mark.parametrize("name", ["ring", "torus", "hypercube", "random_regular", "complete"])
def test_it_joins_all_by_the_least_edges_and_by_the_shortest_ways(name: str) -> None:
    graph = build_graph(name, 16, seed=3)
    tree = spanning_tree(graph)
    assert sum(map(len, tree.out_neighbours)) == 2 * 15
    assert tree.is_connected()
    for i, row in enumerate(tree.out_neighbours):
        assert set(row) <= set(graph.out_neighbours[i])
    assert (distances(tree)[0] == distances(graph)[0]).all()


@pytest.mark.parametrize("name", ["chain", "star"])
def test_a_tree_is_its_own(name: str) -> None:
    graph = build_graph(name, 9)
    for root in (0, 4):
        assert spanning_tree(graph, root).out_neighbours == graph.out_neighbours


def test_one_node_is_a_tree() -> None:
    assert spanning_tree(build_graph("complete", 1)).out_neighbours == ((),)
