"""The sparse W against dense matrix arithmetic; the weight rules against their definitions."""

import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.topology import RULES, Graph, Mixing, build_graph, mixing_matrix, weight_row
from gossipnode.topology.eigen import laplacian_extremes, rho
from gossipnode.topology.sequences import build_sequence

UNDIRECTED = ["ring", "chain", "star", "complete", "erdos_renyi", "random_geometric"]


@st.composite
def mixings(draw):
    n = draw(st.integers(1, 9))
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.floats(-1, 1))
    found = [(i, j, w) for i, j, w in draw(st.lists(pairs, max_size=25)) if i != j]
    i, j, w = zip(*found, strict=True) if found else ((), (), ())
    return Mixing.from_entries(n, i, j, np.array(w)), found


@settings(max_examples=80, deadline=None)
@given(mixings())
def test_sparse_is_dense(made):
    W, found = made
    n = W.nodes
    dense = np.zeros((n, n))
    for i, j, w in found:  # repeated entries add up
        dense[i, j] += w
    np.fill_diagonal(dense, 1 - dense.sum(axis=1))
    assert W.dense() == pytest.approx(dense, abs=1e-12)
    x = np.random.default_rng(0).standard_normal((n, 3))
    assert W.apply(x) == pytest.approx(dense @ x, abs=1e-12)
    assert W.apply(x[:, 0]) == pytest.approx(dense @ x[:, 0], abs=1e-12)
    assert W.csr().toarray() == pytest.approx(dense, abs=1e-12)
    assert W.transposed().dense() == pytest.approx(dense.T, abs=1e-12)
    assert W.lazy().dense() == pytest.approx((np.eye(n) + dense) / 2, abs=1e-12)
    assert W.is_symmetric() == (W.is_two_way and bool(np.abs(dense - dense.T).max() <= 1e-12))
    columns = np.abs(dense.sum(axis=0) - 1)
    if abs(columns.max() - 1e-12) > 1e-13:
        assert W.is_doubly_stochastic() == bool(columns.max() <= 1e-12)
    again = Mixing.from_rows([W.row(i) for i in range(n)])
    assert np.array_equal(again.dense(), W.dense())
    for j in range(n):
        kept, handed = W.column(j)
        assert kept == pytest.approx(dense[j, j], abs=1e-12)
        assert handed == {i: W.dense()[i, j] for i in W.receivers_of(j)}
    graph = W.graph()
    assert sum(map(len, graph.out_neighbours)) == W.messages
    assert [len(row) for row in graph.out_neighbours] == W.out_degrees.tolist()
    assert [len(row) for row in graph.in_neighbours] == W.in_degrees.tolist()


def test_wide_models_are_mixed_in_pieces(monkeypatch):
    W = mixing_matrix(build_graph("erdos_renyi", 20))
    X = np.random.default_rng(0).standard_normal((20, 37))
    whole = W.apply(X)
    for numbers in (1, W.messages * 5, W.messages * 36):
        monkeypatch.setattr("gossipnode.topology.mixing.ARRIVING_MAX", numbers)
        assert np.array_equal(W.apply(X), whole)
    assert whole == pytest.approx(W.dense() @ X, abs=1e-13)


def test_circulants_are_seen():
    for name, circulant in {"ring": True, "exponential": True, "complete": True,
                            "star": False, "hypercube": False, "chain": False}.items():  # fmt: skip
        graph = build_graph(name, 16)
        W = mixing_matrix(graph, "uniform")
        c = W.circulant_row()
        assert (c is not None) == circulant, name
        if c is not None:
            assert np.array([np.roll(c, i) for i in range(16)]) == pytest.approx(W.dense())
    # Every node hears one other, and yet it is no circulant.
    assert Mixing.from_entries(4, range(4), [1, 0, 3, 2], 0.5).circulant_row() is None
    # The same hops everywhere, but not the same weights.
    assert Mixing.from_entries(3, range(3), [1, 2, 0], [0.5, 0.5, 0.4]).circulant_row() is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(UNDIRECTED), st.sampled_from(sorted(RULES)), st.booleans(),
    st.integers(1, 24), st.integers(0, 99),
)  # fmt: skip
def test_every_rule_is_symmetric_doubly_stochastic_and_its_formula(name, rule, lazy, n, seed):
    graph = build_graph(name, n, seed=seed)
    W = mixing_matrix(graph, rule, lazy=lazy)
    assert W.is_doubly_stochastic()
    assert W.is_symmetric()
    A = np.zeros((n, n))
    for i, row in enumerate(graph.out_neighbours):
        A[i, list(row)] = 1
    d = A.sum(axis=1)
    spectrum = np.linalg.eigvalsh(np.diag(d) - A)
    weight = {
        "metropolis": 1 / (1 + np.maximum.outer(d, d)),
        "uniform": 1 / (1 + d.max()),
        "max_degree": 1 / n,
        "best_constant": 2 / (spectrum[1] + spectrum[-1]) if n > 1 else 1,
    }[rule]
    expected = A * weight
    expected += np.diag(1 - expected.sum(axis=1))
    if lazy:
        expected = (np.eye(n) + expected) / 2
        assert rule == "best_constant" or np.linalg.eigvalsh(expected)[0] > -1e-12
    assert W.dense() == pytest.approx(expected, abs=1e-11)
    for i in range(n):
        assert weight_row(graph, i, rule, lazy=lazy) == W.row(i)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(UNDIRECTED), st.integers(2, 16), st.integers(0, 20))
def test_no_other_constant_beats_the_best(name, n, seed):
    graph = build_graph(name, n, seed=seed)
    best = rho(mixing_matrix(graph, "best_constant"))
    for other in ("uniform", "max_degree"):
        assert best <= rho(mixing_matrix(graph, other)) + 1e-12
    L = nx.laplacian_matrix(nx.Graph([(i, j) for i, r in enumerate(graph.out_neighbours)
                                      for j in r]), nodelist=range(n)).toarray()  # fmt: skip
    alpha = 2 / sum(laplacian_extremes(graph))
    for nudged in (0.99 * alpha, 1.01 * alpha):
        assert best <= np.linalg.norm(np.eye(n) - nudged * L - 1 / n, 2) + 1e-12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The best symmetric weights of all, where those are constant: by symmetry, or known.
        ("ring", {4: 0.333333, 8: 0.744521, 16: 0.926670, 32: 0.980968, 64: 0.995196}),
        ("star", {16: 0.882353, 32: 0.939394, 64: 0.969231}),
        ("torus", {16: 0.600000, 64: 0.863545}),
        ("chain", {16: 0.980785}),
    ],
)
def test_best_constant_reaches_the_published_optimum(name, expected):
    for n, value in expected.items():
        W = mixing_matrix(build_graph(name, n), "best_constant")
        assert rho(W) == pytest.approx(value, abs=5.1e-7)


@pytest.mark.parametrize("n", [3, 8, 16, 40])
def test_best_constant_closed_forms(n):
    star, chain = (
        rho(mixing_matrix(build_graph(name, n), "best_constant")) for name in ("star", "chain")
    )
    assert star == pytest.approx((n - 1) / (n + 1), abs=1e-12)
    assert chain == pytest.approx(np.cos(np.pi / n), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ring", (0.9905, 0.9988, 0.9999)), ("torus", (0.875, 0.982, 0.991))],
)
def test_max_degree_table(name, expected):
    found = [rho(mixing_matrix(build_graph(name, n), "max_degree")) for n in (16, 32, 64)]
    digits = 4 if name == "ring" else 3
    assert found == pytest.approx(expected, abs=0.51 * 10**-digits)


@pytest.mark.parametrize("name", ["ring", "torus", "star", "hypercube", "chain"])
def test_lazy_halves_the_gap_where_the_second_eigenvalue_leads(name):
    graph = build_graph(name, 16)
    values = np.linalg.eigvalsh(mixing_matrix(graph).dense())
    assert rho(mixing_matrix(graph, lazy=True)) == pytest.approx((1 + values[-2]) / 2, abs=1e-12)


def test_rules_refuse_what_they_cannot_serve():
    exponential = build_graph("exponential", 8)
    for rule in ("metropolis", "best_constant"):
        with pytest.raises(ConfigError, match="directed"):
            mixing_matrix(exponential, rule)
    lopsided = Graph.from_edges("lopsided", 3, [(0, 1), (1, 2), (2, 0), (0, 2)], directed=True)
    for rule in ("uniform", "max_degree"):
        with pytest.raises(ConfigError, match="mean would drift"):
            mixing_matrix(lopsided, rule)


def test_csr_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ConfigError, match=r"gossipnode\[topology\]"):
        mixing_matrix(build_graph("ring", 4)).csr()


@pytest.mark.parametrize("name", ["one_peer_exponential", "el_local", "od_equi_dyn", "star"])
def test_receivers_of_a_node_are_the_rows_that_name_it(name: str) -> None:
    mixing = build_sequence(name, 7, seed=2).at(3)
    W = mixing.dense()
    for j in range(7):
        assert mixing.receivers_of(j) == [i for i in range(7) if i != j and W[i, j]]
