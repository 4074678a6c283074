"""Graphs that change every round: exact where promised, and as fast as their formulas say."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.topology import GRAPHS, SEQUENCES, build_sequence
from gossipnode.topology.base_graph import base_graph
from gossipnode.topology.eigen import rho
from gossipnode.topology.epidemic import local_rho_ms, oracle_rho_ms
from gossipnode.topology.equitopo import draws_for, equi_static, od_rho_ms, ou_rho_ms

RANDOM = ["od_equi_dyn", "ou_equi_dyn", "el_oracle", "el_local"]


def product(sequence, rounds, start=0):
    found = np.eye(sequence.nodes)
    for k in range(start, start + rounds):
        found = sequence.at(k).dense() @ found
    return found


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32, 64, 128])
def test_one_peer_exponential_averages_exactly_whichever_round_comes_first(n):
    sequence = build_sequence("one_peer_exponential", n)
    assert sequence.period == max(1, n.bit_length() - 1)
    for start in range(sequence.period):
        assert product(sequence, sequence.period, start) == pytest.approx(
            np.full((n, n), 1 / n), abs=1e-15
        )
    # One round alone brings next to nothing: the shift by 2 leaves an alternating vector as it is.
    if n > 2:
        assert rho(sequence.at(0)) == pytest.approx(np.cos(np.pi / n), abs=1e-12)
        assert rho(sequence.at(1)) == pytest.approx(1, abs=1e-12)


def test_one_peer_exponential_of_other_numbers_only_shrinks():
    shrunk = {}
    for n in range(6, 101):
        sequence = build_sequence("one_peer_exponential", n)
        shrunk[n] = np.linalg.norm(product(sequence, sequence.period) - 1 / n, 2)
        assert (shrunk[n] < 1e-14) == (n & (n - 1) == 0), n
    assert 0.19 < max(shrunk.values()) < 0.22
    assert all(0.19 < shrunk[n] < 0.22 for n in (6, 12, 24, 48, 100))


def test_base_graph_of_every_small_number():
    for peers in (1, 2, 3, 4):
        for n in range(1, 101):
            rounds = base_graph(n, peers)
            found = np.eye(n)
            for W in rounds:
                assert W.is_symmetric()
                assert W.is_doubly_stochastic()
                assert W.self_weights.min() >= 0
                assert W.out_degrees.max() <= peers
                found = W.apply(found)
            assert np.abs(found - 1 / n).max() < 1e-14, (n, peers)
            assert n == 1 or len(rounds) <= 2 * log(n, peers + 1) + 2


def test_base_graph_periods():
    lengths = [len(base_graph(n)) for n in (16, 32, 64, 25, 48, 100)]
    assert lengths == [4, 5, 6, 9, 7, 11]
    # By hand: 5 = 4 + 1 with one peer: average 4 (2 rounds), link, average 4 again.
    assert len(base_graph(5)) == 5
    # Every pair of 3 at once with two peers.
    assert len(base_graph(3, peers=2)) == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 6))
def test_base_graph_averages_any_vector(n, peers):
    x = np.random.default_rng(n).standard_normal(n)
    mixed = x
    for W in base_graph(n, peers):
        mixed = W.apply(mixed)
    assert mixed == pytest.approx(np.full(n, x.mean()), abs=1e-13)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(SEQUENCES)), st.integers(1, 33), st.integers(0, 2**32),
    st.integers(0, 10**9),
)  # fmt: skip
def test_every_round_is_what_the_sequence_says_and_the_same_everywhere(name, n, seed, round_):
    here, there = (build_sequence(name, n, seed=seed) for _ in range(2))
    there.at(round_ + 1)  # what was asked before does not matter
    W = here.at(round_)
    assert np.array_equal(W.dense(), there.at(round_).dense())
    rows, columns = W.dense().sum(axis=1), W.dense().sum(axis=0)
    assert rows == pytest.approx(np.ones(n), abs=1e-12)
    assert W.dense().min() >= -1e-15
    if here.doubly_stochastic:
        assert columns == pytest.approx(np.ones(n), abs=1e-12)
    if here.symmetric:
        assert W.is_symmetric()
    if here.period is not None:
        assert here.at(round_ + here.period) is W
    assert here.graph(round_).nodes == n


@pytest.mark.parametrize("name", RANDOM)
def test_random_sequences_change_with_round_and_seed(name):
    drawn = {
        build_sequence(name, 16, seed=seed).at(k).dense().tobytes()
        for seed in range(4)
        for k in range(8)
    }
    # OD-EquiDyn has 15 shifts to draw from.
    assert len(drawn) > (10 if name == "od_equi_dyn" else 20)


def test_one_peer_sequences_have_one_peer():
    for name in ("one_peer_exponential", "od_equi_dyn", "ou_equi_dyn", "base"):
        sequence = build_sequence(name, 21)
        for k in range(20):
            assert sequence.at(k).out_degrees.max() <= 1
            assert sequence.at(k).in_degrees.max() <= 1


def test_epidemic_degrees():
    oracle = build_sequence("el_oracle", 16, sends=3).at(5)
    assert set(oracle.out_degrees) == set(oracle.in_degrees) == {3}
    assert set(oracle.weights) == {1 / 4}
    local = build_sequence("el_local", 16, sends=3).at(5)
    assert set(local.out_degrees) == {3}
    assert local.in_degrees.min() < 3 < local.in_degrees.max()
    for i in range(16):
        self_weight, row = local.row(i)
        assert {round(w * (1 + len(row)), 12) for w in (*row.values(), self_weight)} == {1}


def test_who_is_sent_to_is_uniform():
    """Each of 7 others is chosen 3/7 of the time: within 5 standard deviations."""
    rounds = 2000
    hits = np.zeros((8, 8))
    sequence = build_sequence("el_local", 8, sends=3)
    for k in range(rounds):
        W = sequence.at(k)
        hits[W.senders, W.receivers] += 1
    p = 3 / 7
    off = ~np.eye(8, dtype=bool)
    assert np.abs(hits[off] / rounds - p).max() < 5 * sqrt(p * (1 - p) / rounds)
    assert hits.trace() == 0


MEAN_SQUARE = {
    "od_equi_dyn": {16: 0.684653, 32: 0.695971, 64: 0.701561},
    "el_oracle": {(16, 1): 0.683, (16, 2): 0.537, (16, 4): 0.383, (32, 1): 0.696, (32, 2): 0.558,
                  (32, 4): 0.417, (64, 1): 0.701, (64, 2): 0.568, (64, 4): 0.433},
    "el_local": {(16, 1): 0.776, (16, 2): 0.619, (16, 4): 0.426, (32, 1): 0.786, (32, 2): 0.639,
                 (32, 4): 0.463, (64, 1): 0.791, (64, 2): 0.649, (64, 4): 0.480},
}  # fmt: skip


def test_mean_square_table():
    for n, value in MEAN_SQUARE["od_equi_dyn"].items():
        assert od_rho_ms(n, 0.5) == pytest.approx(value, abs=5.1e-7)
    for (n, s), value in MEAN_SQUARE["el_oracle"].items():
        assert oracle_rho_ms(n, s) == pytest.approx(value, abs=5.1e-4)
    for (n, s), value in MEAN_SQUARE["el_local"].items():
        assert local_rho_ms(n, s) == pytest.approx(value, abs=5.1e-4)
    assert od_rho_ms(10**9, 0.5) == pytest.approx(sqrt(0.5), abs=1e-8)
    assert oracle_rho_ms(10**9, 3) == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("name", RANDOM)
def test_mean_square_formulas_against_draws(name):
    """E‖(I − J)W v‖² over 4000 rounds, v in the direction that shrinks least, to 5 std. errors."""
    n, rounds = 12, 4000
    sequence = build_sequence(name, n, seed=3)
    Q = np.eye(n) - 1 / n
    total = np.zeros((n, n))
    squares = []
    for k in range(rounds):
        M = Q @ sequence.at(k).dense()
        total += M.T @ M
        squares.append(M)
    values, vectors = np.linalg.eigh(Q @ total @ Q / rounds)
    assert sequence.rho_ms is not None
    # Fixed beforehand, so that noise cannot choose it: the slowest of a circulant's waves.
    waves = np.exp(2j * np.pi * np.outer(np.arange(1, n), np.arange(n)) / n) / sqrt(n)
    best = max(waves, key=lambda v: np.real(v.conj() @ total @ v))
    samples = np.array([np.linalg.norm(M @ best) ** 2 for M in squares])
    error = samples.std() / sqrt(rounds)
    assert abs(samples.mean() - sequence.rho_ms() ** 2) < 5 * error + 1e-12
    assert vectors.shape == (n, n)
    assert values[-1] == pytest.approx(sequence.rho_ms() ** 2, rel=0.12)


def test_ou_equi_dyn_over_random_directions_is_the_published_figure():
    """The reference has E‖Wx‖² for random x; ρ_ms is the worst direction's, a little larger."""
    for n, published in {16: 0.726, 32: 0.739, 64: 0.741}.items():
        sequence = build_sequence("ou_equi_dyn", n)
        energy = [np.linalg.norm(sequence.at(k).dense() - 1 / n) ** 2 for k in range(600)]
        assert sqrt(np.mean(energy) / (n - 1)) == pytest.approx(published, abs=0.008)
        assert published < ou_rho_ms(n, 0.5) < published + 0.02


@pytest.mark.parametrize(
    ("two_way", "published"),
    [
        (False, {16: (0.753, 0.115), 32: (0.765, 0.116), 64: (0.777, 0.079)}),
        (True, {16: (0.630, 0.146), 32: (0.648, 0.115), 64: (0.631, 0.089)}),
    ],
)
def test_equi_static_table(two_way, published):
    """Mean over 200 seeds within 3 standard errors of the published mean of 20."""
    for n, (mean, spread) in published.items():
        found = [rho(equi_static(n, seed, two_way=two_way)) for seed in range(200)]
        assert abs(np.mean(found) - mean) < 3 * spread * sqrt(1 / 20 + 1 / 200)


def test_equi_static_keeps_the_bound_of_its_theorem():
    """‖W − J‖ <= ε with probability 1 − p: no more failures in 100 than p allows."""
    n, accuracy, failure = 64, 0.5, 0.1
    draws = draws_for(n, accuracy, failure)
    found = [rho(equi_static(n, seed, draws, two_way=False)) for seed in range(100)]
    assert sum(value > accuracy for value in found) <= 10


def test_graphs_are_sequences_that_stay():
    for name in set(GRAPHS) - {"explicit"}:
        sequence = build_sequence(name, 16)
        assert sequence.is_static
        assert sequence.at(7) is sequence.at(0)
        assert sequence.rule == ("uniform" if name == "exponential" else "metropolis")
    lazy = build_sequence("ring", 16, lazy=True)
    assert lazy.rule == "lazy metropolis"
    assert lazy.at(3).dense() == pytest.approx(
        (np.eye(16) + build_sequence("ring", 16).at(0).dense()) / 2
    )


def test_rounds_are_kept_but_not_all():
    sequence = build_sequence("od_equi_dyn", 8)
    first = sequence.at(0)
    assert sequence.at(0) is first
    for k in range(1, 200):
        sequence.at(k)
    again = sequence.at(0)
    assert again is not first
    assert np.array_equal(again.dense(), first.dense())


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("bse", {}, "topology.graph"),
        ("base", {"rule": "metropolis"}, "topology.weights"),
        ("base", {"peers": 0}, "topology.peers"),
        ("d_equi_static", {"draws": 0}, "topology.draws"),
        ("od_equi_dyn", {"step": 1.5}, "topology.step"),
        ("el_local", {"sends": 9}, "topology.sends"),
        ("el_oracle", {"sends": 0}, "topology.sends"),
        ("el_oracle", {"sends": 3}, "topology.sends"),
    ],
)
def test_impossible_sequences_name_the_option(name, options, key):
    with pytest.raises(ConfigError) as error:
        build_sequence(name, 9, **options)
    assert error.value.key == key
    assert error.value.allowed
