"""Mixing weights against the published spectra and against matrices written out by hand."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.topology import GRAPHS, Graph, build_graph, weight_matrix, weight_row
from gossipnode.topology.weights import (
    is_doubly_stochastic,
    is_symmetric,
    share_column,
    spectral_rho,
)

# The spectral norms of W - J, to the digits of the reference table.
RHO = {
    "ring": (0.949253, 0.987190, 0.996790),
    "chain": (0.987190, 0.996790, 0.999197),
    "grid": (0.868641, 0.965778, 0.967705),
    "torus": (0.600000, 0.882843, 0.882843),
    "star": (0.937500, 0.968750, 0.984375),
    "hypercube": (0.600000, 0.666667, 0.714286),
    "exponential": (0.600000, 0.666667, 0.714286),
    "complete": (0.0, 0.0, 0.0),
}


def matrix(name, n, rule=None, **options):
    graph = build_graph(name, n, **options)
    return weight_matrix(graph, rule or ("uniform" if graph.directed else "metropolis"))


@pytest.mark.parametrize("name", RHO)
def test_spectral_table(name):
    found = [spectral_rho(matrix(name, n)) for n in (16, 32, 64)]
    assert found == pytest.approx(RHO[name], abs=5.1e-7)


def test_chain_is_as_slow_as_the_ring_of_twice_its_nodes():
    for n in (8, 16, 25):
        assert spectral_rho(matrix("chain", n)) == pytest.approx(
            spectral_rho(matrix("ring", 2 * n)), abs=1e-12
        )


def test_star_of_four_exactly():
    W = matrix("star", 4)
    assert W.tolist() == [
        [0.25, 0.25, 0.25, 0.25],
        [0.25, 0.75, 0.00, 0.00],
        [0.25, 0.00, 0.75, 0.00],
        [0.25, 0.00, 0.00, 0.75],
    ]
    assert np.linalg.eigvalsh(W) == pytest.approx([0, 0.75, 0.75, 1], abs=1e-15)
    assert spectral_rho(W) == pytest.approx(0.75, abs=1e-15)


def test_ring_of_four_exactly():
    W = matrix("ring", 4)
    third = 1 / 3
    assert (
        pytest.approx(np.array([np.roll([third, third, 0, third], i) for i in range(4)]), abs=1e-15)
        == W
    )
    assert np.linalg.eigvalsh(W) == pytest.approx([-third, third, third, 1], abs=1e-15)
    assert spectral_rho(W) == pytest.approx(third, abs=1e-15)


def test_complete_of_five_exactly():
    W = matrix("complete", 5)
    assert pytest.approx(np.full((5, 5), 0.2), abs=1e-15) == W
    assert spectral_rho(W) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "power", "constants"),
    [
        ("ring", 2, {16: 12.9912, 36: 13.1261, 64: 13.1489, 144: 13.1574, 1024: 13.1594}),
        ("torus", 1, {16: 6.4, 36: 7.2, 64: 7.4981, 144: 7.7169, 1024: 7.8703}),
        ("grid", 1, {16: 2.1018, 36: 2.0849, 64: 2.0669, 144: 2.0425, 1024: 2.0028}),
        ("star", 1, {16: 1.0, 36: 1.0, 64: 1.0, 144: 1.0, 1024: 1.0}),
    ],
)
def test_spectral_gap_laws(name, power, constants):
    """(1 - rho) n^power; symmetric W - J, so its 2-norm is its largest eigenvalue modulus."""
    for n, expected in constants.items():
        W = matrix(name, n)
        rho = np.abs(np.linalg.eigvalsh(W - 1 / n)).max() if n > 200 else spectral_rho(W)
        assert (1 - rho) * n**power == pytest.approx(expected, abs=5.1e-5), n


@pytest.mark.parametrize("n", [2, 6, 12, 16, 36, 64, 100])
def test_exponential_law_for_even_n(n):
    bits = (n - 1).bit_length()
    rho = spectral_rho(matrix("exponential", n))
    assert (1 - rho) * (1 + bits) == pytest.approx(2, abs=1e-12)


def test_exponential_of_25():
    assert spectral_rho(matrix("exponential", 25)) == pytest.approx(0.510861, abs=5.1e-7)


def test_max_degree_rows_of_regular_graphs_agree_between_the_rules():
    for name in ("ring", "torus", "hypercube", "complete"):
        uniform, metropolis = matrix(name, 16, "uniform"), matrix(name, 16, "metropolis")
        assert uniform == pytest.approx(metropolis, abs=1e-15)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([name for name in GRAPHS if name != "explicit"]),
    st.sampled_from(["metropolis", "uniform"]),
    st.sampled_from([1, 2, 4, 8, 9, 10, 16, 21, 32]),
    st.integers(0, 1000),
)
def test_w_is_what_its_formula_says_and_doubly_stochastic(name, rule, n, seed):
    try:
        degree = 2 if name == "small_world" else 3
        graph = build_graph(name, n, seed=seed, degree=degree, probability=0.7)
        W = weight_matrix(graph, rule)
    except ConfigError:
        assert name in {"hypercube", "random_regular", "exponential", "small_world"}
        return
    assert is_doubly_stochastic(W, 1e-15 * n)
    assert is_symmetric(W) or graph.directed
    assert W.min() >= 0
    A = np.zeros((n, n))  # who hears whom, built from the sending side
    for i, row in enumerate(graph.out_neighbours):
        A[list(row), i] = 1
    d = A.sum(axis=1)
    divisor = np.maximum.outer(d, d) if rule == "metropolis" else d.max()
    dense = A / (1 + divisor)
    dense += np.diag(1 - dense.sum(axis=1))
    assert dense == pytest.approx(W, abs=1e-15 * n)
    for i in range(n):
        self_weight, local = weight_row(graph, i, rule)
        row = np.zeros(n)
        row[i] = self_weight
        row[list(local)] = list(local.values())
        assert row == pytest.approx(dense[i], abs=1e-15 * n)
        assert tuple(local) == graph.in_neighbours[i]


def test_metropolis_on_an_irregular_graph_against_networkx_degrees():
    oracle = nx.lollipop_graph(5, 4)
    graph = Graph.from_edges("lollipop", 9, oracle.edges)
    W = weight_matrix(graph)
    for i, j in oracle.edges:
        assert W[i, j] == 1 / (1 + max(oracle.degree[i], oracle.degree[j]))


def test_one_mixing_step_keeps_the_mean_and_contracts_by_rho():
    rng = np.random.default_rng(0)
    for name in RHO:
        W = matrix(name, 16)
        X = rng.standard_normal((16, 5))
        mixed = W @ X
        assert mixed.mean(axis=0) == pytest.approx(X.mean(axis=0), abs=1e-15)
        before, after = (np.linalg.norm(Z - Z.mean(axis=0)) for Z in (X, mixed))
        assert after <= spectral_rho(W) * before + 1e-14


def test_rho_is_a_norm_where_the_second_eigenvalue_would_mislead():
    """A doubly stochastic matrix that is not normal: J + N with N nilpotent has eigenvalues 0."""
    u, v = np.array([1.0, -1, 0, 0]), np.array([0.0, 0, 1, -1])
    W = np.full((4, 4), 0.25) + 0.1 * np.outer(u, v)
    assert is_doubly_stochastic(W)
    assert not is_symmetric(W)
    assert np.sort(np.abs(np.linalg.eigvals(W)))[:3] == pytest.approx([0, 0, 0], abs=1e-7)
    assert spectral_rho(W) == pytest.approx(0.2, abs=1e-15)


def test_doubly_stochastic_needs_rows_and_columns():
    rows = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert not is_doubly_stochastic(rows)
    assert not is_doubly_stochastic(rows.T)
    assert is_doubly_stochastic(np.array([[-0.5, 1.5], [1.5, -0.5]]))


def test_metropolis_on_a_directed_graph_is_refused():
    with pytest.raises(ConfigError, match="directed") as error:
        weight_row(build_graph("exponential", 8), 0, "metropolis")
    assert error.value.key == "topology.weights"
    assert "uniform" in error.value.allowed


def test_unbalanced_directed_graph_is_refused():
    graph = build_graph("explicit", 3, edges=[[1, 2], [0], [1]], directed=True)
    assert graph.is_connected()
    assert not graph.is_balanced
    with pytest.raises(ConfigError, match="mean would drift"):
        weight_matrix(graph, "uniform")


def test_misspelt_rule_is_guessed():
    with pytest.raises(ConfigError, match="did you mean 'metropolis'"):
        weight_row(build_graph("ring", 4), 0, "metropols")


def test_a_row_needs_no_matrix():
    """10,000 nodes: W would be 800 MB."""
    graph = build_graph("ring", 10_000)
    assert weight_row(graph, 0)[1] == {1: 1 / 3, 9999: 1 / 3}


@given(st.integers(2, 9), st.randoms(use_true_random=False), st.booleans())
def test_shares_add_to_one_on_every_digraph(n, random, lazy):
    edges = [(i, j) for i in range(n) for j in range(n) if random.random() < 0.4]
    graph = Graph.from_edges("any", n, edges, directed=True)
    for i in range(n):
        kept, shares = share_column(graph, i, lazy=lazy)
        assert list(shares) == list(graph.out_neighbours[i])
        assert kept + sum(shares.values()) == pytest.approx(1, abs=1e-15)
        each = 1 / (1 + graph.degree(i))
        assert shares == dict.fromkeys(shares, each / 2 if lazy else each)


@pytest.mark.parametrize("name", ["star", "erdos_renyi", "exponential"])
def test_shares_by_a_rule_are_its_columns(name):
    graph = build_graph(name, 8)
    rule = "uniform" if graph.directed else "metropolis"
    W = weight_matrix(graph, rule)
    for i in range(8):
        kept, shares = share_column(graph, i, rule)
        assert kept == pytest.approx(W[i, i], abs=1e-15)
        assert shares == pytest.approx({j: W[j, i] for j in graph.out_neighbours[i]}, abs=1e-15)
