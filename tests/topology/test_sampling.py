"""Peer sampling is uniform and repeatable."""

from collections import Counter

import numpy as np

from gossipnode.topology import PeerSampler

PEERS = ["a", "b", "c", "d", "e"]


def draws(seed, count):
    sampler = PeerSampler(np.random.default_rng(seed))
    return [sampler.sample(PEERS) for _ in range(count)]


def test_choice_is_uniform():
    """Chi-square of 4 degrees of freedom: above 23.5 once in 10,000 seeds; the seed is fixed."""
    counts = Counter(draws(1, 10_000))
    assert set(counts) == set(PEERS)
    assert sum((counts[peer] - 2000) ** 2 / 2000 for peer in PEERS) < 23.5


def test_same_generator_same_choices():
    assert draws(3, 50) == draws(3, 50) != draws(4, 50)


def test_candidates_may_change_between_draws():
    sampler = PeerSampler(np.random.default_rng(0))
    assert sampler.sample([]) is None
    assert sampler.sample(("only",)) == "only"
    assert sampler.sample(["x", "y"]) in {"x", "y"}


def test_no_candidate_draws_nothing():
    a, b = np.random.default_rng(0), np.random.default_rng(0)
    PeerSampler(a).sample([])
    assert a.random() == b.random()
