"""Graphs: the right edges (networkx judges), the same on every node, helpful refusals."""

import struct

import networkx as nx
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.topology import GRAPHS, Graph, build_graph
from gossipnode.topology.random_graphs import erdos_renyi_edges, random_regular_edges

UNDIRECTED = ["ring", "chain", "grid", "torus", "star", "complete", "erdos_renyi"]


def as_networkx(graph: Graph) -> nx.Graph:
    """The same graph in the oracle's terms."""
    found = nx.DiGraph() if graph.directed else nx.Graph()
    found.add_nodes_from(range(graph.nodes))
    found.add_edges_from((i, j) for i, row in enumerate(graph.out_neighbours) for j in row)
    return found


def edges(graph: nx.Graph) -> set[frozenset[int]]:
    return {frozenset(edge) for edge in graph.edges}


@pytest.mark.parametrize("n", [3, 4, 5, 16, 33])
def test_ring_chain_star_complete_are_networkx_ones(n):
    for name, oracle in {
        "ring": nx.cycle_graph(n),
        "chain": nx.path_graph(n),
        "star": nx.star_graph(n - 1),
        "complete": nx.complete_graph(n),
    }.items():
        assert edges(as_networkx(build_graph(name, n))) == edges(oracle), name


@pytest.mark.parametrize("shape", [(4, 4), (4, 8), (3, 5), (2, 3), (2, 2), (1, 7), (5, 5)])
def test_grid_and_torus_are_networkx_ones(shape):
    r, c = shape
    for name, periodic in (("grid", False), ("torus", True)):
        oracle = nx.grid_2d_graph(r, c, periodic=periodic)
        oracle.remove_edges_from(list(nx.selfloop_edges(oracle)))
        oracle = nx.relabel_nodes(oracle, {(i, j): i * c + j for i, j in oracle})
        assert edges(as_networkx(build_graph(name, r * c, rows=r))) == edges(oracle), name


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 6])
def test_hypercube_is_the_networkx_one(dimension):
    graph = as_networkx(build_graph("hypercube", 2**dimension))
    assert nx.is_isomorphic(graph, nx.hypercube_graph(dimension))
    assert all((i ^ j).bit_count() == 1 for i, j in graph.edges)


def test_4_by_4_torus_is_the_hypercube():
    torus, cube = build_graph("torus", 16), build_graph("hypercube", 16)
    assert nx.is_isomorphic(as_networkx(torus), as_networkx(cube))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 25, 33])
def test_exponential_is_a_directed_circulant(n):
    graph = build_graph("exponential", n)
    hops = [2**t for t in range(int(np.ceil(np.log2(n))))]
    assert graph.directed
    assert graph.is_balanced
    for i in range(n):
        assert set(graph.out_neighbours[i]) == {(i + hop) % n for hop in hops}
        assert set(graph.in_neighbours[i]) == {(i - hop) % n for hop in hops}
        both = {(i + hop) % n for hop in hops} | {(i - hop) % n for hop in hops}
        assert graph.neighbours(i) == tuple(sorted(both))
        assert graph.degree(i) == len(hops)


@pytest.mark.parametrize(
    ("n", "rows"), [(16, 4), (32, 4), (64, 8), (12, 3), (6, 2), (2, 1), (1, 1), (25, 5)]
)
def test_near_square_shape(n, rows):
    assert build_graph("torus", n) == build_graph("torus", n, rows=rows)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", [*UNDIRECTED, "hypercube", "exponential"])
def test_one_and_two_nodes(name, n):
    graph = build_graph(name, n)
    assert [graph.neighbours(i) for i in range(n)] == [[()], [(1,), (0,)]][n - 1]
    assert graph.is_connected()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([name for name in GRAPHS if name != "explicit"]),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_every_graph_is_connected_sorted_and_without_loops(name, n, seed):
    degree = 4 if name == "small_world" else 3
    try:
        graph = build_graph(name, n, seed=seed, degree=degree)
    except ConfigError:
        assert name in {"grid", "torus", "hypercube", "random_regular", "small_world"}
        return
    oracle = as_networkx(graph)
    connected = nx.is_strongly_connected if graph.directed else nx.is_connected
    assert connected(oracle)
    assert graph.is_connected()
    for i, row in enumerate(graph.out_neighbours):
        assert list(row) == sorted(set(row) - {i})
        assert all(i in graph.in_neighbours[j] for j in row)
        assert graph.directed or all(i in graph.out_neighbours[j] for j in row)
    assert build_graph(name, n, seed=seed, degree=degree) == graph


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))),
       st.booleans())  # fmt: skip
def test_connectedness_agrees_with_networkx(n, pairs, directed):
    inside = [(i, j) for i, j in pairs if i < n and j < n]
    graph = Graph.from_edges("any", n, inside, directed=directed)
    oracle = as_networkx(graph)
    assert graph.is_connected() == (
        nx.is_strongly_connected(oracle) if directed else nx.is_connected(oracle)
    )


@pytest.mark.parametrize(
    ("n", "degree"),
    [(2, 1), (3, 2), (5, 4), (10, 3), (16, 4), (64, 6), (50, 8), (20, 15), (9, 8), (30, 16)],
)
def test_random_regular_has_the_degree_everywhere(n, degree):
    graph = build_graph("random_regular", n, degree=degree, seed=3)
    assert {graph.degree(i) for i in range(n)} == {degree}
    assert nx.is_k_regular(as_networkx(graph), degree)


def test_random_regular_reaches_every_graph():
    """The 6-cycle labellings: 60, and two triangles (10 labellings) are redrawn."""
    found = {build_graph("random_regular", 6, degree=2, seed=s).fingerprint() for s in range(900)}
    assert len(found) == 60


def test_erdos_renyi_has_its_probability():
    """5 standard deviations of the number of edges of one draw, before any is redrawn."""
    n, p = 200, 0.1
    pairs = n * (n - 1) / 2
    count = len(next(erdos_renyi_edges(n, 5, p)))
    assert abs(count - p * pairs) < 5 * np.sqrt(pairs * p * (1 - p))
    assert build_graph("erdos_renyi", 12, probability=1.0) == Graph.from_edges(
        "erdos_renyi", 12, nx.complete_graph(12).edges
    )


def test_seed_decides_a_random_graph():
    for name in ("erdos_renyi", "random_regular"):
        fingerprints = {build_graph(name, 16, seed=seed).fingerprint() for seed in range(20)}
        assert len(fingerprints) == 20


@pytest.mark.parametrize(
    ("name", "options", "fingerprint"),
    [
        ("erdos_renyi", {"seed": 0}, "28e383dcad3f1971"),
        ("erdos_renyi", {"seed": 1, "probability": 0.5}, "19be534b144a5907"),
        ("random_regular", {"seed": 0}, "3822f7ac1e5a3018"),
        ("random_regular", {"seed": 1, "degree": 10}, "ab38624734c9c032"),
        ("ring", {}, "0ca54b8e2e9ce88f"),
    ],
)
def test_fingerprint_is_the_same_on_every_machine_and_version(name, options, fingerprint):
    assert build_graph(name, 16, **options).fingerprint() == fingerprint


def test_fingerprint_by_hand():
    """Node count, direction, rule and ids with their lengths, then neighbour places by id."""
    path = Graph.from_edges("path", 3, [(0, 1), (1, 2)])
    order = struct.pack("<I?", 3, False) + struct.pack("<I", 7) + b"uniform"
    order += b"".join(struct.pack("<I", 1) + text for text in (b"a", b"b", b"c"))
    order += struct.pack("<II", 1, 2) + struct.pack("<II", 1, 2) + struct.pack("<III", 2, 0, 1)
    assert path.fingerprint(("b", "c", "a"), "uniform") == xxhash.xxh3_64_hexdigest(order)


def test_fingerprint_sees_edges_ids_rule_and_direction_but_no_name():
    ring = build_graph("ring", 4)
    assert Graph("other", 4, ring.out_neighbours).fingerprint() == ring.fingerprint()
    directed = Graph("ring", 4, ring.out_neighbours, directed=True)
    ids = ("a", "b", "c", "d")
    different = {
        ring.fingerprint(),
        build_graph("chain", 4).fingerprint(),
        build_graph("ring", 5).fingerprint(),
        directed.fingerprint(),
        ring.fingerprint(rule="metropolis"),
        ring.fingerprint(rule="uniform"),
        ring.fingerprint(ids),
        ring.fingerprint(("a", "b", "c", "e")),
        ring.fingerprint(("a", "c", "b", "d")),
    }
    assert len(different) == 9
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in different)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 100))
def test_fingerprint_does_not_depend_on_the_order_of_the_peers(order, seed):
    graph = build_graph("erdos_renyi", 8, seed=seed)
    ids = [f"node-{i}" for i in range(8)]
    place = {node: k for k, node in enumerate(order)}
    pairs = [(place[i], place[j]) for i, row in enumerate(graph.out_neighbours) for j in row]
    shuffled = Graph.from_edges("other", 8, pairs)
    assert shuffled.fingerprint([ids[i] for i in order], "m") == graph.fingerprint(ids, "m")


def test_explicit_lists_and_maps():
    expected = Graph("explicit", 3, ((1, 2), (0,), (0,)))
    assert build_graph("explicit", 3, edges=[[2, 1], [0], [0]]) == expected
    assert build_graph("explicit", 3, edges={0: (1, 2), 2: (0,), 1: (0,)}) == expected
    assert build_graph("explicit", 1, edges=[[]]).nodes == 1
    directed = build_graph("explicit", 3, edges=[[1], [2], [0]], directed=True)
    assert directed.in_neighbours == ((2,), (0,), (1,))


@pytest.mark.parametrize(
    ("edges", "directed", "says"),
    [
        (None, False, "needs them"),
        ([[1], []], False, "node 0 lists 1, but 1 does not list 0"),
        ([[0, 1], [0]], False, "node 0 lists itself"),
        ([[1, 1], [0]], False, "node 0 lists a neighbour twice"),
        ([[2], [0]], False, "node 0 lists 2, which is no node"),
        ({0: [1], 1: [0], 7: []}, False, "there is no node 7"),
        ([[], []], False, "not connected"),
        ([[1], []], True, "not connected"),
    ],
)
def test_wrong_explicit_lists_are_refused(edges, directed, says):
    with pytest.raises(ConfigError, match=says) as error:
        build_graph("explicit", 2, edges=edges, directed=directed)
    assert error.value.key == "topology.neighbours"


@pytest.mark.parametrize(
    ("name", "n", "options", "key", "allowed"),
    [
        ("torus", 17, {}, "topology.graph", "16 or 18 nodes"),
        ("grid", 3, {}, "topology.graph", "2 or 4 nodes"),
        ("grid", 5, {}, "topology.graph", "4 or 6 nodes"),
        ("grid", 12, {"rows": 5}, "topology.rows", "1, 2, 3, 4, 6, 12"),
        ("hypercube", 12, {}, "topology.graph", "8 or 16 nodes"),
        ("random_regular", 5, {"degree": 3}, "topology.degree", "[2, 4]"),
        ("random_regular", 4, {}, "topology.degree", "[1, 2, 3]"),
        ("random_regular", 10, {"degree": 1}, "topology.degree", "2 or more"),
        ("erdos_renyi", 50, {"probability": 0.001}, "topology.probability", "2 ln n / n"),
        ("erdos_renyi", 50, {"probability": 1.5}, "topology.probability", "at most 1"),
        ("ring", 0, {}, "topology.graph", "1 or more"),
        ("rnig", 8, {}, "topology.graph", "ring, chain"),
    ],
)
def test_impossible_graph_says_what_serves(name, n, options, key, allowed):
    with pytest.raises(ConfigError) as error:
        build_graph(name, n, **options)
    assert error.value.key == key
    assert allowed in error.value.allowed


def test_misspelt_graph_is_guessed():
    with pytest.raises(ConfigError, match="did you mean 'hypercube'"):
        build_graph("hyper_cube", 8)


def test_table_has_one_line_of_help_each():
    assert all(kind.help and "\n" not in kind.help and kind.serves for kind in GRAPHS.values())


def test_regular_draws_are_bounded():
    assert len(list(random_regular_edges(10, 0, 1))) == 100
