"""Costs against exercises solved by hand and against counting the messages one by one."""

from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.topology import Graph, build_sequence
from gossipnode.topology.costs import (
    Link,
    cost,
    dpsgd,
    gossip,
    naive_all_reduce,
    parameter_server,
    participants_max,
    ring_all_reduce,
    saving,
    together,
)
from gossipnode.topology.sequences import static_sequence

LENET = 85_098 * 4
HOME = Link(up_bps=100e6, down_bps=1e9)


def test_a_minute_of_lenet_serves_2203():
    assert participants_max(LENET, HOME, 60) == (22_033, 2_203)
    served = cost(parameter_server(2_203), LENET, link=HOME)
    one_more = cost(parameter_server(2_204), LENET, link=HOME)
    assert served.round_s < 60 < one_more.round_s


def test_a_thousand_rounds_of_200_clients_cost_110_65():
    size = 4_950_544 * 4
    assert size == 19_802_176
    run = cost(parameter_server(200), size, rounds=1000, price_per_gib=0.03)
    assert run.busiest_price == pytest.approx(110.6533, abs=5e-5)
    assert run.busiest_bytes == 19_802_176 * 200 * 1000
    assert run.price == pytest.approx(2 * 110.6533, abs=1e-4)
    assert run.node_bytes == 19_802_176 * 1000


def test_fifty_rounds_and_a_naive_all_reduce_send_67456():
    sequence = build_sequence("random_regular", 128, degree=8)
    run = cost(dpsgd(sequence), LENET, rounds=50)
    end = cost(naive_all_reduce(128), LENET)
    assert run.messages == 51_200
    assert end.messages == 16_256
    both = together(run, end)
    assert both.messages == 67_456
    assert both.rounds == 50
    assert both.node_bytes == LENET * (50 * 8 + 127)


def test_mean_degree_is_what_counts():
    graph = Graph.from_edges("any", 4, [(0, 1), (0, 2), (0, 3), (1, 2)])
    load = dpsgd(static_sequence(graph))
    assert (load.messages, load.sent, load.received) == (8, 3, 3)


def test_partial_averaging_saves_46_percent():
    assert saving(278, 150) == pytest.approx(0.4604, abs=5e-5)
    with pytest.raises(ConfigError):
        saving(0, 1)


def test_all_reduce_by_counting():
    """Ring: in each of 2(n − 1) steps each node passes one of n chunks on."""
    for n in (2, 3, 8):
        sent = np.zeros(n)
        messages = 0
        for _step in range(2 * (n - 1)):
            for i in range(n):
                sent[i] += 1 / n
                messages += 1
        load = ring_all_reduce(n)
        assert load.messages == messages
        assert load.sent == pytest.approx(sent.max())
        assert load.models == pytest.approx(sent.sum())
        assert load.steps == 2 * (n - 1)
        naive = naive_all_reduce(n)
        assert (naive.messages, naive.sent, naive.received) == (n * (n - 1), n - 1, n - 1)


def test_gossip_long_run_by_drawing():
    """Each pushes to a neighbour drawn uniformly: the mean of 4000 periods to 5 std. errors."""
    sequence = build_sequence("star", 6)
    load = gossip(6, sequence)
    assert (load.messages, load.sent, load.received) == (6, 1, 5)
    chain = build_sequence("chain", 5)
    rng = np.random.default_rng(0)
    heard = np.zeros(5)
    periods = 4000
    for _ in range(periods):
        for row in chain.graph(0).out_neighbours:
            heard[row[int(rng.integers(len(row)))]] += 1
    assert gossip(5, chain).received == 1.5
    assert abs(heard.max() / periods - 1.5) < 5 * np.sqrt(0.5 / periods)
    assert gossip(1).messages == 0


def test_time_is_of_the_busier_direction_and_of_steps_in_turn():
    link = Link(up_bps=8e6, down_bps=32e6, latency_s=0.5)
    assert cost(naive_all_reduce(4), 1e6, link=link).round_s == pytest.approx(3 + 0.5)
    assert cost(ring_all_reduce(4), 1e6, link=link).round_s == pytest.approx(1.5 + 6 * 0.5)
    slow_down = Link(up_bps=32e6, down_bps=8e6)
    star = cost(gossip(6, build_sequence("star", 6)), 1e6, rounds=2, link=slow_down)
    assert (star.round_s, star.seconds) == (5, 10)
    assert cost(gossip(6), 1e6).round_s == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 10**6), st.integers(1, 50), st.floats(0.001, 10))
def test_sums_agree(n, size, rounds, price):
    loads = [
        parameter_server(n), naive_all_reduce(n), ring_all_reduce(n), gossip(n),
        dpsgd(build_sequence("exponential", n)), dpsgd(build_sequence("base", n)),
        gossip(n, build_sequence("star", n)),
    ]  # fmt: skip
    for load in loads:
        found = cost(load, size, rounds=rounds, price_per_gib=price)
        server = found.busiest_bytes if load.served else 0
        assert found.node_bytes * n + server == pytest.approx(found.total_bytes)
        assert found.price == pytest.approx(found.total_bytes / 2**30 * price)
        assert found.busiest_bytes <= found.total_bytes * (1 + 1e-12)
        assert found.messages == load.messages * rounds
        if load.scheme != "ring all-reduce":
            assert found.total_bytes == pytest.approx(found.messages * size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**9), st.floats(1, 1e12), st.floats(0.1, 1e4))
def test_participants_just_fit(size, bps, seconds):
    receives, sends = participants_max(size, Link(bps, 2 * bps), seconds)
    assert sends * size * 8 / bps <= seconds * (1 + 1e-9)
    assert (sends + 1) * size * 8 / bps > seconds * (1 - 1e-9)
    assert receives in (2 * sends, 2 * sends + 1)
    assert sends == floor(seconds * bps / (8 * size))
