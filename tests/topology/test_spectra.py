"""Predictions against measurements, large graphs against closed forms, laws against theory."""

from math import ceil, cos, inf, log, pi, sqrt

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, svds

from gossipnode.errors import ConfigError
from gossipnode.topology import (
    GRAPHS,
    SEQUENCES,
    Graph,
    Mixing,
    build_graph,
    build_sequence,
    eigen,
    mixing_matrix,
)
from gossipnode.topology.laws import THEORIES, fit_law
from gossipnode.topology.spectra import (
    contract,
    measured_rounds,
    product_norm,
    rounds_in_eigenbasis,
    rounds_to,
    sampled_rho,
    spectrum,
)

STATIC = sorted(set(GRAPHS) - {"explicit"})

# Mean and spread of 20 seeds, for n = 16, 32, 64.
RANDOM_GRAPHS = {
    "erdos_renyi": ({}, [(0.806, 0.074), (0.783, 0.034), (0.810, 0.049)]),
    "erdos_renyi, half": (
        {"probability": 0.5}, [(0.652, 0.070), (0.509, 0.050), (0.397, 0.052)],
    ),
    "random_geometric": ({}, [(0.792, 0.082), (0.852, 0.041), (0.898, 0.021)]),
}  # fmt: skip


@pytest.mark.parametrize("label", RANDOM_GRAPHS)
def test_random_graphs_are_as_fast_as_the_table_says(label):
    """Mean over 60 seeds within the published spread of the published mean."""
    options, rows = RANDOM_GRAPHS[label]
    for n, (mean, spread) in zip((16, 32, 64), rows, strict=True):
        found = [
            eigen.rho(mixing_matrix(build_graph(label.split(",")[0], n, seed=seed, **options)))
            for seed in range(60)
        ]
        assert abs(np.mean(found) - mean) < spread, n


def test_erdos_renyi_is_as_fast_as_networkx_draws_it():
    """Means of 100 draws each, apart by less than 5 standard errors."""
    n = 32
    ours = [eigen.rho(mixing_matrix(build_graph("erdos_renyi", n, seed=s))) for s in range(100)]
    draws = (nx.gnp_random_graph(n, 2 * log(n) / n, seed=s) for s in range(200))
    connected = [g for g in draws if nx.is_connected(g)][:100]
    theirs = [eigen.rho(mixing_matrix(Graph.from_edges("gnp", n, g.edges))) for g in connected]
    error = sqrt((np.var(ours) + np.var(theirs)) / 100)
    assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error


@pytest.mark.parametrize(
    ("degree", "published"),
    [(3, (0.865, 0.913, 0.939)), (4, (0.741, 0.827, 0.859)), (6, (0.553, 0.676, 0.724))],
)
def test_random_regular_table(degree, published):
    """Mean of 60 seeds within 0.03, the spread of the published mean; the limit is Friedman's."""
    for n, mean in zip((16, 32, 64), published, strict=True):
        graphs = [build_graph("random_regular", n, degree=degree, seed=s) for s in range(60)]
        assert np.mean([eigen.rho(mixing_matrix(g)) for g in graphs]) == pytest.approx(
            mean, abs=0.03
        )
    large = mixing_matrix(build_graph("random_regular", 2000, degree=degree))
    limit = (1 + 2 * sqrt(degree - 1)) / (degree + 1)
    assert eigen.rho(large) == pytest.approx(limit, abs=0.012)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*STATIC, *SEQUENCES]), st.sampled_from([1, 2, 4, 9, 16, 20]),
    st.integers(0, 50),
)  # fmt: skip
def test_rho_is_the_norm_that_a_dense_matrix_has(name, n, seed):
    try:
        W = build_sequence(name, n, seed=seed).at(seed)
    except ConfigError:
        return
    if n > 1:
        expected = np.linalg.norm(W.dense() - 1 / n, 2)
        assert eigen.rho(W) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["random_regular", "erdos_renyi", "torus", "grid", "star"])
def test_krylov_finds_what_the_dense_solver_does(name):
    W = mixing_matrix(build_graph(name, 400, seed=1))
    values = np.linalg.eigvalsh(W.dense() - 1 / 400)
    ends = eigen.lanczos(W.apply, 400)
    assert ends.are_exact
    assert (1 - ends.high) == pytest.approx(1 - values[-1], rel=1e-6)
    # J's own 0 is not on 1^⊥, where all may be above it.
    assert ends.low == pytest.approx(np.sort(np.linalg.eigvalsh(W.dense()))[0], abs=1e-6)


def test_ten_thousand_nodes():
    n = 10_000
    ring = eigen.rho(mixing_matrix(build_graph("ring", n)))
    assert 1 - ring == pytest.approx(2 * (1 - cos(2 * pi / n)) / 3, rel=1e-6)
    torus = eigen.rho(mixing_matrix(build_graph("torus", n)))
    assert 1 - torus == pytest.approx(2 * (1 - cos(2 * pi / 100)) / 5, rel=1e-6)
    # Too slow for the iteration: solved with sparse factors. A chain is a ring of twice its nodes.
    chain = eigen.rho(mixing_matrix(build_graph("chain", n)))
    assert 1 - chain == pytest.approx(2 * (1 - cos(pi / n)) / 3, rel=1e-6)
    regular = eigen.rho(mixing_matrix(build_graph("random_regular", n)))
    assert regular == pytest.approx((1 + 2 * sqrt(3)) / 5, abs=2e-3)
    small, large = eigen.laplacian_extremes(build_graph("grid", n))
    assert small == pytest.approx(2 - 2 * cos(pi / 100), rel=1e-6)
    assert large == pytest.approx(2 * (2 + 2 * cos(pi / 100)), rel=1e-6)


def test_without_scipy_a_slow_large_graph_says_so(monkeypatch):
    def absent(name):
        raise ImportError(name=name)

    W = mixing_matrix(build_graph("chain", 4000))
    monkeypatch.setattr(eigen.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match="needs scipy") as error:
        eigen.rho(W)
    assert "gossipnode[topology]" in error.value.allowed


@pytest.mark.parametrize(("name", "n"), [("el_local", 300), ("el_local", 700), ("el_local", 2500)])
def test_directed_rows_of_any_size_against_singular_values(name, n):
    """By singular values, by the Gram matrix and by iteration, as n grows; scipy judges."""
    W = build_sequence(name, n).at(0)
    assert not W.is_doubly_stochastic()
    back = W.transposed()
    Z = LinearOperator(
        (n, n),
        matvec=lambda x: W.apply(x.ravel()) - x.mean(),
        rmatvec=lambda y: back.apply(y.ravel()) - y.mean(),
        dtype=float,
    )
    (expected,) = svds(Z, k=1, return_singular_vectors=False, v0=np.random.default_rng(0).random(n))
    assert eigen.rho(W) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", STATIC)
def test_measured_never_exceeds_predicted_by_a_round(name):
    for n in (16, 64):
        one = spectrum(build_sequence(name, n))
        assert one.measured is not None
        assert one.measured <= ceil(one.predicted)
        assert one.messages == sum(map(len, build_graph(name, n).out_neighbours))
        assert one.doubly_stochastic


def test_worst_start_needs_what_is_predicted():
    """From the slowest eigenvector itself the prediction is met to the round."""
    for name in ("ring", "grid", "star", "hypercube"):
        W = mixing_matrix(build_graph(name, 16))
        values, vectors = np.linalg.eigh(W.dense() - 1 / 16)
        x = vectors[:, int(np.argmax(np.abs(values)))]
        rounds = 0
        while np.linalg.norm(x) > 1e-3:
            x, rounds = W.apply(x), rounds + 1
        assert rounds == ceil(rounds_to(eigen.rho(W)) - 1e-9)


@pytest.mark.parametrize("name", ["ring", "exponential", "chain", "star", "erdos_renyi"])
def test_eigenbasis_counts_the_rounds_that_stepping_does(name):
    sequence = build_sequence(name, 24, seed=2)
    for seed in range(5):
        start = np.random.default_rng(seed).standard_normal(24)
        stepped = measured_rounds(sequence, seed=seed)
        assert rounds_in_eigenbasis(sequence.at(0), start, 1e-3) == stepped
        assert measured_rounds(sequence, seed=seed, steps_max=3) == stepped


def test_what_changes_is_stepped_or_not_told():
    assert measured_rounds(build_sequence("od_equi_dyn", 16), steps_max=3) is None
    halves = Mixing.from_entries(4, [0, 1, 2, 3], [1, 0, 3, 2], 0.5)
    assert rounds_in_eigenbasis(halves, np.arange(4.0), 1e-3) is None  # never connected


def test_exact_graphs_are_exact():
    for name, n, rounds in [("complete", 9, 1), ("one_peer_exponential", 32, 5), ("base", 25, 9)]:
        found = contract(build_sequence(name, n))
        assert (found.rho, found.exact_after, found.rounds()) == (0.0, rounds, rounds)
    assert measured_rounds(build_sequence("base", 25)) == 9
    assert contract(build_sequence("ring", 1)).exact_after == 1


def test_products_by_krylov_are_products():
    for n in (600, 512, 1024):
        sequence = build_sequence("one_peer_exponential", n)
        rounds = [sequence.at(k) for k in range(sequence.period)]
        product = np.eye(n)
        for W in rounds:
            product = W.apply(product)
        assert product_norm(rounds) == pytest.approx(np.linalg.norm(product - 1 / n, 2), abs=1e-7)


@pytest.mark.parametrize("name", ["od_equi_dyn", "el_oracle"])
def test_sampled_is_the_formula_where_no_direction_is_special(name):
    for n in (12, 16):
        sequence = build_sequence(name, n)
        assert sequence.rho_ms is not None
        assert sampled_rho(sequence) == pytest.approx(sequence.rho_ms(), abs=1e-12)


def test_sampled_is_the_energy_left_in_random_vectors():
    """Against the dense matrix, and below the slowest direction's by little."""
    sequence = build_sequence("ou_equi_dyn", 24)
    energy = [np.linalg.norm(W.dense() - W.dense().mean(axis=0)) ** 2 for W in sequence.sample()]
    assert sampled_rho(sequence) == pytest.approx(sqrt(np.mean(energy) / 23), abs=1e-12)
    assert sequence.rho_ms is not None
    assert 0.97 * sequence.rho_ms() < sampled_rho(sequence) < sequence.rho_ms()
    drifting = build_sequence("el_local", 24)
    energy = [np.linalg.norm(W.dense() - W.dense().mean(axis=0)) ** 2 for W in drifting.sample()]
    assert sampled_rho(drifting) == pytest.approx(sqrt(np.mean(energy) / 23), abs=1e-12)


def test_what_has_no_formula_is_sampled():
    found = contract(build_sequence("ou_equi_dyn", 12, lazy=True))
    assert found.kind == "sampled"
    assert contract(build_sequence("ou_equi_dyn", 12)).rho < found.rho < 1
    large = contract(build_sequence("ou_equi_dyn", 3000))
    assert large.kind == "sampled"
    # Pairs along cycles, none left that fits: between a third and a half of the nodes' number.
    assert sqrt(1 / 2) - 1e-3 < large.rho < sqrt(2 / 3) + 1e-3


def test_rounds_to():
    assert rounds_to(0.5, 1 / 8) == pytest.approx(3)
    assert (rounds_to(0), rounds_to(1), rounds_to(1.5)) == (1, inf, inf)
    assert rounds_to(0.949253) == pytest.approx(log(1000) / -log(0.949253))


def test_row_stochastic_is_told():
    one = spectrum(build_sequence("el_local", 16))
    assert not one.doubly_stochastic
    assert (one.degree, one.messages, one.period) == (4, 64, None)


@pytest.mark.parametrize("name", THEORIES)
def test_scaling_laws(name):
    """Over the three largest sizes: the exponent to 0.1, the constant to 3 %."""
    law = fit_law(name)
    assert law.sizes[-1] == 1024
    assert law.sizes[0] in (8, 9)
    assert law.tail == pytest.approx(law.theory.exponent, abs=0.1)
    if law.theory.constant is not None:
        assert law.constant == pytest.approx(law.theory.constant, rel=0.03)
    if name != "random_regular":  # which at n = 8 is half of the complete graph
        assert law.exponent == pytest.approx(law.theory.exponent, abs=0.1)


def test_laws_that_are_equalities():
    for name in ("star", "exponential", "hypercube"):
        law = fit_law(name)
        assert law.exponent == pytest.approx(law.theory.exponent, abs=1e-6)
        assert law.constant == pytest.approx(law.theory.constant, rel=1e-9)


def test_an_unknown_law_names_those_known():
    with pytest.raises(ConfigError, match="did you mean 'ring'"):
        fit_law("rings")
