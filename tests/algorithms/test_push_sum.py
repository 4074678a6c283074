"""Push-sum and SGP where nothing goes wrong: dense recursions, exact means, fixed points, timing.

The oracle is U ← P(U − η G(Z)), w ← P w, Z = U/w as matrix products; its P is made here, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from plain_learner import PlainLearner, plain_config
from push_sum_swarms import mass_of, totals
from q16_swarms import (
    BEST,
    NAMES,
    Matrix,
    after,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.mass import NOTHING, Sums, given, parts_of, taken
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError
from gossipnode.node.place import find_place
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.topology import build_sequence

ETA = 0.05


def receivers(i: int) -> list[int]:
    """Return whom node i of an irregular digraph on 16 nodes sends to: one to four others."""
    listed = {(i + 1) % 16}
    listed |= {(i + hop) % 16 for every, hop in ((2, 3), (3, 2), (4, 7)) if i % every == 0}
    listed |= {0} if i % 5 == 0 else set()
    return sorted(listed - {i})


def irregular() -> Matrix:
    """Return P, p_ji = 1/(1 + out-degree of i)."""
    P = np.zeros((16, 16))
    for i in range(16):
        P[[i, *receivers(i)], i] = 1 / (1 + len(receivers(i)))
    return P


DIGRAPH = {
    "topology__graph": "explicit",
    "topology__directed": True,
    "topology__neighbours": {NAMES[i]: [NAMES[j] for j in receivers(i)] for i in range(16)},
}


def uniform(hops: list[int]) -> Matrix:
    """Return P of a circulant digraph."""
    return sum(np.roll(np.eye(16), hop, axis=0) for hop in [0, *hops]) / (1 + len(hops))


# Graphs, and P of round k.
GRAPHS: dict[str, tuple[dict[str, Any], Callable[[int], Matrix]]] = {
    "irregular": (DIGRAPH, lambda k: irregular()),
    "exponential": ({"topology__graph": "exponential"}, lambda k: uniform([1, 2, 4, 8])),
    "one_peer": ({"topology__graph": "one_peer_exponential"}, lambda k: uniform([1 << k % 4])),
    "ring": ({"topology__graph": "ring"}, lambda k: uniform([1, 15])),
    "el_local": ({"topology__graph": "el_local"}, lambda k: normalised(k)),
    "lazy": (
        {"topology__graph": "exponential", "topology__lazy": True},
        lambda k: (np.eye(16) + uniform([1, 2, 4, 8])) / 2,
    ),
}


def normalised(k: int) -> Matrix:
    W = build_sequence("el_local", 16).at(k).dense()
    return W / W.sum(axis=0)


def sgp(P: Callable[[int], Matrix], eta: float = ETA) -> Iterator[Matrix]:
    """Yield Z of each round, and check Σu and w on the way."""
    U, w, k = start(), np.ones((16, 1)), 0
    while True:
        G, before = gradients(U / w), U.sum(0)
        U, w = P(k) @ (U - eta * G), P(k) @ w
        np.testing.assert_allclose(U.sum(0), before - eta * G.sum(0), rtol=0, atol=1e-12)
        assert w.min() > 0
        k += 1
        yield U / w


def config(source: str, graph: str, rounds: int = 40, **flags: Any) -> Config:
    return settings(source, "push_sum", ETA, run__rounds=rounds, **GRAPHS[graph][0], **flags)


# -- averaging ------------------------------------------------------------------------------------


def averaging(n: int, **flags: Any) -> SimulatedSwarm:
    """Return a swarm that learns nothing, from models of two numbers."""
    config = plain_config(algorithm__name="push_sum", training__local_steps=0, **flags)
    starts = np.random.default_rng(4).standard_normal((n, 2))
    learners = [PlainLearner(row) for row in starts]
    names = [f"n{i:02d}" for i in range(n)]
    return SimulatedSwarm(config, names=names, learners=learners, link=Link(latency_s=0.001))


def test_the_mean_on_an_irregular_digraph_where_columns_alone_are_off() -> None:
    X = np.random.default_rng(4).standard_normal((16, 2))
    mean = X.mean(0)
    with averaging(16, run__rounds=200, **DIGRAPH) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), np.tile(mean, (16, 1)), rtol=0, atol=1e-13)
        w, u, _ = totals(swarm.up)
        assert abs(w - 16) < 1e-13
        np.testing.assert_allclose(u, X.sum(0), rtol=0, atol=1e-13)
        masses = [mass_of(node) for node in swarm.up]
    np.testing.assert_allclose(masses, np.linalg.matrix_power(irregular(), 200).sum(1), atol=1e-12)
    plain = np.linalg.matrix_power(irregular(), 200) @ X
    assert np.abs(plain - mean).max() > 0.1


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_one_peer_a_round_gives_the_mean_in_log2_n_rounds(n: int) -> None:
    rounds = n.bit_length() - 1
    mean = np.random.default_rng(4).standard_normal((n, 2)).mean(0)
    with averaging(n, run__rounds=rounds, topology__graph="one_peer_exponential") as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), np.tile(mean, (n, 1)), rtol=0, atol=1e-15)


# -- stochastic gradient push ---------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
def test_sixteen_nodes_are_the_dense_recursion(source: str, graph: str) -> None:
    expected = after(sgp(GRAPHS[graph][1]), 40)
    with simulated(config(source, graph)) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        for node in swarm.up:
            assert node.counters.get("missing_models") == 0
            assert node.age == 40


@pytest.mark.parametrize("graph", ["exponential", "one_peer", "ring"])
def test_where_rows_add_to_one_too_it_is_dpsgd(source: str, graph: str) -> None:
    one = models_of(config(source, graph))
    other = models_of(settings(source, "dpsgd", ETA, run__rounds=40, **GRAPHS[graph][0]))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_sums_of_u_go_along_the_gradients(source: str) -> None:
    """Σu^{k+1} = Σu^k − η Σ g_i(z_i^k), by swarms that stop a round apart."""
    u = []
    for rounds in (20, 21):
        with simulated(config(source, "irregular", rounds)) as swarm:
            swarm.run_to_end(within=100)
            u.append(totals(swarm.up)[1])
            if rounds == 20:
                G = gradients(swarm.models())
    np.testing.assert_allclose(u[1], u[0] - ETA * G.sum(0), rtol=0, atol=1e-12)


def test_it_rests_near_the_optimum_where_rows_alone_do_not(source: str) -> None:
    """With w the optimum of the mean is sought; by rows alone that of a mean weighted by π."""
    rest = next(islice(sgp(lambda k: irregular()), 3000, None))
    off = float(np.linalg.norm(rest.mean(0) - BEST))
    assert off == pytest.approx(0.0343173001, abs=1e-9)
    found = models_of(config(source, "irregular", 300))
    np.testing.assert_allclose(found, rest, rtol=0, atol=1e-4)
    R = (irregular() > 0).astype(np.float64)
    R /= R.sum(axis=1, keepdims=True)
    X = start()
    for _ in range(3000):
        X = R @ (X - ETA * gradients(X))
    assert np.linalg.norm(X.mean(0) - BEST) == pytest.approx(0.3394783, abs=1e-6)
    assert off < np.linalg.norm(X.mean(0) - BEST) / 9


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    X = stopped_and_started(config(source, "irregular", 30), 60)
    np.testing.assert_allclose(X, after(sgp(GRAPHS["irregular"][1]), 60), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["sgp", "overlap_sgp"])
def test_a_seed_is_a_run(source: str, form: str) -> None:
    chosen = config(source, "irregular", 25, algorithm__form=form)
    one, again, other = (trace_of(chosen, seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


# -- overlap --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "lag", "latency_s", "round_s"),
    [
        ("sgp", 1, 0.4, 1.4),  # training, then the wire
        ("overlap_sgp", 1, 0.4, 1.0),  # training hides the wire
        ("overlap_sgp", 1, 0.8, 1.6),  # a message a round, and one on its way at a time
    ],
)
def test_what_a_round_takes(form: str, lag: int, latency_s: float, round_s: float) -> None:
    chosen = plain_config(
        algorithm__name="push_sum", algorithm__form=form, algorithm__lag_rounds=lag,
        topology__graph="exponential", run__rounds=1000,
    )  # fmt: skip
    with SimulatedSwarm(chosen, 8, link=Link(latency_s=latency_s), step_s=1.0) as swarm:
        swarm.run(20.0)
        before = [node.round for node in swarm.up]
        swarm.run(round_s * 40)
        assert [node.round - k for node, k in zip(swarm.up, before, strict=True)] == [40] * 8
        for node in swarm.up:
            assert node.counters.get("rounds_skipped") == 0
            assert node.counters.get("rounds_without_mass") == 0
            assert node.counters.get("missing_models") == 0


@pytest.mark.parametrize(("lag", "latency_s"), [(3, 0.8), (8, 2.5)])
def test_who_has_sent_its_mass_ahead_waits_for_some(lag: int, latency_s: float) -> None:
    """Each round hands out three quarters: after a few, next to nothing is left to train with."""
    chosen = plain_config(
        algorithm__name="push_sum", algorithm__form="overlap_sgp", algorithm__lag_rounds=lag,
        topology__graph="exponential", run__rounds=1000,
    )  # fmt: skip
    with SimulatedSwarm(chosen, 8, link=Link(latency_s=latency_s), step_s=1.0) as swarm:
        swarm.run(100.0)
        for node in swarm.up:
            assert node.counters.get("rounds_without_mass") == 0
            assert node.round > 100.0 / (1.0 + 2 * latency_s)


def test_overlap_rests_where_sgp_does_nearly(source: str) -> None:
    """What is on its way is missing from w, and steps are longer: somewhat more bias, no other."""
    X = models_of(config(source, "irregular", 250, algorithm__form="overlap_sgp"))
    assert 0.03 < np.linalg.norm(X.mean(0) - BEST) < 0.1  # by rows alone: 0.34


# -- the sums -------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=60, deadline=None)
@drawn(
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
)
def test_what_is_handed_over_is_what_is_lost_however_often(
    dtype: str, seed: int, lost: list[int]
) -> None:
    """Two nodes, one edge; of the messages those with a 0 arrive. Sums are exact to rounding."""
    rng = np.random.default_rng(seed)
    z, w = rng.standard_normal(5).astype(dtype), 1.0
    z_m, w_m = rng.standard_normal(5).astype(dtype), 1.0
    u = w * z.astype(np.float64) + w_m * z_m
    sent, seen = NOTHING, NOTHING
    for fate in lost:
        z, w, grown = given(z, w, {"m": sent}, {"m": 0.25})
        sent = grown["m"]
        parts = parts_of(sent, z.dtype, z.size)
        assert all(part.dtype == dtype for part in parts.values())
        arrived = sum(part.astype(np.float64) for part in parts.values())
        assert np.array_equal(arrived, sent.u)
        if fate == 0:
            z_m, w_m = taken(z_m, w_m, {"m": (Sums(arrived, sent.w, sent.times), seen)})
            seen = sent
        way = sent.u - (0.0 if seen.u is None else seen.u)
        there = w * z.astype(np.float64) + w_m * z_m.astype(np.float64) + way
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(
            there, u, rtol=0, atol=4 * len(lost) * eps * np.abs(u).max() + 8 * eps
        )
        assert abs(w + w_m + sent.w - seen.w - 2.0) < 1e-14
        assert w > 0.0


def test_sums_stay_sharp_when_rounds_are_many() -> None:
    """After a hundred thousand hand-outs in float32, one more still hands over its share."""
    z = np.array([1.0, -3.0], np.float32)
    sent = Sums(np.array([1e5, -3e5]), 1e5, 100_000)
    _, _, grown = given(z, 1.0, {"m": sent}, {"m": 0.1})
    handed = grown["m"].u - sent.u  # type: ignore[operator]
    np.testing.assert_allclose(handed, 0.1 * z, rtol=1e-7)


# -- what is refused ------------------------------------------------------------------------------


def test_what_it_cannot_bear_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold such sums"):
        config(source, "ring", task__dtype="float16")
    with pytest.raises(ConfigError, match="fixed neighbours"):
        settings(source, "push_sum", ETA, topology__graph="random")
    listed = [PeerEntry(id=name, address=f"http://{name}:1") for name in NAMES]
    with pytest.raises(ConfigError, match="the mean would drift"):
        find_place(settings(source, "dpsgd", ETA, **DIGRAPH), listed, NAMES[0])
    place = find_place(config(source, "irregular"), listed, NAMES[0])
    assert place.shares == dict.fromkeys([NAMES[j] for j in receivers(0)], 1 / 5)


def test_a_message_without_its_mass_is_refused(source: str) -> None:
    with simulated(config(source, "ring", 1000)) as swarm:
        swarm.run(0.05)
        sender = swarm.nodes[NAMES[0]]
        sender.push([NAMES[1]], {"u": sender.params.copy()})
        swarm.run(0.05)
        assert swarm.outcomes["unsupported_message"] == 1
