"""Partitions: exact cover, the class counts that they promise, reference skew figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.learning.partition import SHARE_MIN, parse_partition, partition

SCHEMES = ("iid", "dirichlet:0.3", "shards:2", "classes:3", "quantity:0.5")
BALANCED = np.repeat(np.arange(10), 6000)


@given(
    st.sampled_from((*SCHEMES, "dirichlet:0.001", "dirichlet:1e6", "quantity:0.01")),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_shares_are_an_exact_cover(scheme, nodes, seed):
    targets = np.random.default_rng(seed).permutation(np.arange(400) % 4)
    if scheme == "classes:3" and nodes < 2:
        nodes = 2
    shares = partition(targets, nodes, scheme, seed)
    assert len(shares) == nodes
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(400))
    assert all(len(share) and (np.diff(share) > 0).all() for share in shares)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_seeds_give_equal_shares_and_others_do_not(scheme):
    one, same, other = (partition(BALANCED[::50], 8, scheme, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(st.integers(1, 60), st.integers(60, 500))
def test_iid_sizes_differ_by_at_most_one(nodes, samples):
    sizes = [len(share) for share in partition(np.zeros(samples, int), nodes, "iid", 0)]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 10), st.integers(1, 20), st.integers(0, 1000))
def test_classes_gives_exactly_k_classes_to_each_node(k, nodes, seed):
    targets = np.repeat(np.arange(10), 40)
    nodes = max(nodes, -(-10 // k))
    for share in partition(targets, nodes, f"classes:{k}", seed):
        assert len(np.unique(targets[share])) == k


def test_shards_hold_few_classes_and_equal_sizes():
    for share in partition(BALANCED, 16, "shards:2", 0):
        assert 3748 <= len(share) <= 3752
        assert len(np.unique(BALANCED[share])) <= 4


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0])
def test_dirichlet_shares_hold_the_least_size(alpha):
    targets = BALANCED[::40]
    sizes = [len(share) for share in partition(targets, 32, f"dirichlet:{alpha}", 3)]
    assert min(sizes) >= SHARE_MIN


def mean_total_variation(targets: np.ndarray, shares: list[np.ndarray]) -> float:
    """Mean over nodes of ½ Σ_c |share of class c − 1/C|."""
    counts = np.array([np.bincount(targets[share], minlength=10) for share in shares])
    return float(np.abs(counts / counts.sum(axis=1, keepdims=True) - 0.1).sum(axis=1).mean() / 2)


@pytest.mark.parametrize(
    ("alpha", "reference"), [(100, 0.037), (1, 0.418), (0.1, 0.748), (0.01, 0.879)]
)
def test_dirichlet_skew_matches_the_reference(alpha, reference):
    """Mean total variation to uniform, 60,000 samples, 10 classes, 16 nodes (mean of 5 seeds)."""
    skew = [
        mean_total_variation(BALANCED, partition(BALANCED, 16, f"dirichlet:{alpha}", seed))
        for seed in range(5)
    ]
    assert np.mean(skew) == pytest.approx(reference, abs=0.03)


def test_small_beta_makes_sizes_unequal():
    unequal, equal = (
        [len(share) for share in partition(BALANCED, 16, f"quantity:{beta}", 0)]
        for beta in (0.1, 1e4)
    )
    assert max(unequal) > 5 * 3750
    assert max(equal) < 1.1 * 3750


@pytest.mark.parametrize(
    "text",
    [
        *("", "iid:1", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0", "dirichlet:-1"),
        *("dirichlet:nan", "dirichlet:inf", "shards:1.5", "classes:0", "quantity:-2", ":1", "x"),
    ],
)
def test_bad_text_is_refused_with_the_allowed_forms(text):
    with pytest.raises(ConfigError, match="iid, dirichlet:ALPHA, shards:K, classes:K, quantity"):
        parse_partition(text)


def test_a_misspelling_is_met_with_the_right_word():
    with pytest.raises(ConfigError, match="did you mean 'dirichlet'"):
        parse_partition("dirchlet:0.1")


@pytest.mark.parametrize(
    ("scheme", "nodes", "words"),
    [
        ("iid", 21, "20 training samples for 21 nodes"),
        ("shards:3", 7, "20 samples for 21 shards"),
        ("classes:5", 4, "only 4 classes occur"),
        ("classes:1", 3, "leave some of 4 classes to nobody"),
        ("classes:2", 20, "5 samples of class"),
    ],
)
def test_impossible_partitions_say_why(scheme, nodes, words):
    with pytest.raises(ConfigError, match=words):
        partition(np.arange(20) % 4, nodes, scheme, 0)


def test_numbers_cannot_be_divided_by_class():
    with pytest.raises(ConfigError, match="numbers, not classes"):
        partition(np.linspace(0, 1, 50), 2, "dirichlet:1", 0)


def test_each_node_may_draw_for_itself() -> None:
    shares = partition(BALANCED, 16, "sample:40", 3)
    assert all(len(share) == len(set(share)) == 40 for share in shares)
    assert len({tuple(share) for share in shares}) == 16
    again = partition(BALANCED, 16, "sample:40", 3)
    assert all((one == other).all() for one, other in zip(shares, again, strict=True))
    with pytest.raises(ConfigError, match="3 training samples"):
        partition(np.zeros(3, np.int64), 2, "sample:4", 0)
