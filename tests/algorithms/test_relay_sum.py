"""RelaySum: uniform averages of half-steps that are as old as their way through the tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pytest
from q16_swarms import (
    HASTY,
    NAMES,
    Matrix,
    after,
    bias_under_loss,
    gradients,
    lose,
    rms,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Purpose
from gossipnode.algorithms.relay_sum import RelaySum
from gossipnode.config import Config
from gossipnode.errors import ConfigError, PeerError
from gossipnode.simulation import Link
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology import build_graph
from gossipnode.topology.trees import spanning_tree

# Steps take 10 ms here: who waits 5 ms longer misses nothing but what is lost.
SHORT = {"algorithm__deadline_s": 0.005, "algorithm__start_deadline_s": 0.005}
GRAPHS = ["chain", "star", "torus", "ring"]
Rows = Sequence[Sequence[int]]


def tree_of(graph: str) -> Rows:
    return spanning_tree(build_graph(graph, 16)).out_neighbours


def ways(rows: Rows) -> Matrix:
    """Return d_ij, the edges between each two nodes of a tree."""
    n = len(rows)
    d = np.full((n, n), -1)
    for i in range(n):
        d[i, i], frontier = 0, [i]
        while frontier:
            below = [(j, k) for j in frontier for k in rows[j] if d[i, k] < 0]
            for j, k in below:
                d[i, k] = d[i, j] + 1
            frontier = [k for _, k in below]
    return d


def uniform(rows: Rows, X: Matrix, eta: float) -> Iterator[Matrix]:
    """x_i^{k+1} = (1/n) Σ_j h_j^{k−d_ij+1}, and h_i^k for what has not come that far."""
    d, n, halves = ways(rows), len(X), []
    while True:
        halves.append(X - eta * gradients(X))
        k = len(halves) - 1
        X = np.array(
            [
                sum(halves[k - max(d[i, j] - 1, 0)][j] if d[i, j] <= k + 1 else halves[k][i]
                    for j in range(n)) / n
                for i in range(n)
            ]
        )  # fmt: skip
        yield X


def relayed(
    rows: Rows, X: Matrix, eta: float, lost: Collection[tuple[int, int, int]] = ()
) -> Iterator[Matrix]:
    """The paper's listing; ``lost`` are (from, to, round), and what came before serves n rounds."""
    n, k = len(X), 0
    # What came last along each edge: sum, count and round.
    m: dict[tuple[int, int], tuple[Matrix, int, int]] = {}
    while True:
        H = X - eta * gradients(X)
        behind = {
            (i, j): [m[h, i] for h in rows[i] if h != j and (h, i) in m]
            for i in range(n)
            for j in rows[i]
        }
        for (i, j), of in behind.items():
            if (i, j, k) not in lost:
                m[i, j] = H[i] + sum(s for s, _, _ in of), 1 + sum(c for _, c, _ in of), k
        m = {edge: kept for edge, kept in m.items() if kept[2] >= k - n}
        X = np.array(
            [
                (
                    sum(m[j, i][0] for j in rows[i] if (j, i) in m)
                    + (n - sum(m[j, i][1] for j in rows[i] if (j, i) in m)) * H[i]
                )
                / n
                for i in range(n)
            ]
        )
        k += 1
        yield X


def config(source: str, graph: str, rounds: int, **flags: object) -> Config:
    common = {"topology__graph": graph, "run__rounds": rounds}
    return settings(source, "relay_sum", 0.05, **common, **flags)


@pytest.mark.parametrize("graph", GRAPHS)
def test_each_average_is_of_one_half_step_of_each_node(source: str, graph: str) -> None:
    rows = tree_of(graph)
    expected = after(uniform(rows, start(), 0.05), 60)
    np.testing.assert_allclose(after(relayed(rows, start(), 0.05), 60), expected, atol=1e-12)
    with simulated(config(source, graph, 60)) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        for node in swarm.up:
            assert node.counters.get("missing_models") == 0
            assert node.counters.get("pushes_sent") == 60 * len(rows[NAMES.index(node.id)])


@pytest.mark.parametrize("graph", GRAPHS)
def test_after_as_many_rounds_as_the_tree_is_wide_all_count_alike(source: str, graph: str) -> None:
    d = ways(tree_of(graph))
    with simulated(config(source, graph, 40)) as swarm:
        for k in range(int(d.max()) + 2):
            swarm.run_until(lambda k=k: all(n.round > k for n in swarm.up), within=1, every=1e-4)
            for i, node in enumerate(swarm.up):
                if node.round == k + 1:
                    # Nodes within k + 1 edges have been heard of.
                    reached = int((d[i] <= k + 1).sum()) - 1
                    assert sum(node.algorithm.c.values()) == reached
        assert reached == 15


@pytest.mark.parametrize("graph", GRAPHS)
def test_uneven_data_leave_no_bias(graph: str) -> None:
    assert rms(after(relayed(tree_of(graph), start(), 0.05), 4000)) < 1e-12


@pytest.mark.parametrize("graph", ["chain", "star"])
def test_for_a_lost_message_the_last_one_serves(
    source: str, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tree_of(graph)
    i, j = (7, 8) if graph == "chain" else (0, 8)
    lose(monkeypatch, j, i, 20, of=RelaySum)
    with simulated(config(source, graph, 30, **HASTY)) as swarm:
        swarm.run_to_end(within=100)
        expected = after(relayed(rows, start(), 0.05, [(i, j, 20)]), 30)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        assert sum(node.counters.get("missing_models") for node in swarm.up) == 1


def test_before_anything_came_a_lost_message_leaves_its_share_to_the_node_itself(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, 8, 7, 0, of=RelaySum)
    with simulated(config(source, "chain", 10, **HASTY)) as swarm:
        swarm.run_to_end(within=100)
        expected = after(relayed(tree_of("chain"), start(), 0.05, [(7, 8, 0)]), 10)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)


def test_losses_that_go_on_leave_no_bias() -> None:
    """Every tenth message on a star is lost; at rest, one that came before says the same."""
    rng, rounds = np.random.default_rng(1), 1000
    ways_ = [way for j in range(1, 16) for way in ((0, j), (j, 0))]
    lost = {(*way, k) for k in range(rounds) for way in ways_ if rng.random() < 0.1}
    assert rms(after(relayed(tree_of("star"), start(), 0.05, lost), rounds)) < 1e-8


def test_a_tenth_of_all_messages_lost_does_less_harm_than_to_dpsgd(source: str) -> None:
    """On the torus. Whoever misses a message suspects its sender, so that more than that is lost.

    Own half-steps in place of what is lost would pull the mean about by 0.2.
    """
    rounds = {"relay_sum": 500, "dpsgd": 200}
    relay_sum, dpsgd = (
        bias_under_loss(
            settings(source, name, 0.05, topology__graph="torus", run__rounds=k, **SHORT), 0.1
        )
        for name, k in rounds.items()
    )
    assert relay_sum < 0.5 * dpsgd


def test_slow_nodes_and_wires_change_nothing(source: str) -> None:
    link = Link(latency_s=0.001, jitter_s=0.03)
    with simulated(config(source, "torus", 30), link=link, step_s=0.01) as swarm:
        swarm.slow_down(NAMES[5], 6.0)
        swarm.run_to_end(within=100)
        expected = after(uniform(tree_of("torus"), start(), 0.05), 30)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)


def test_a_dead_node_blocks_nobody(source: str) -> None:
    slow = {"algorithm__deadline_s": 0.5, "network__push_timeout_s": 0.5}
    with simulated(config(source, "chain", 60, **slow), step_s=0.01) as swarm:
        swarm.run(0.1)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=2.0)
        assert [node.round for node in swarm.up] == [60] * 15
        # What came of it last has served for 16 rounds, and serves no more.
        assert NAMES[7] not in swarm.nodes[NAMES[6]].algorithm.c
        assert sum(swarm.nodes[NAMES[8]].algorithm.c.values()) == 7


def test_who_was_away_goes_on_with_the_others(source: str) -> None:
    hasty = {**HASTY, "checkpoint__every_s": 0.05}
    with simulated(config(source, "star", 200, **hasty), step_s=0.01, stores=True) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[7])
        swarm.run(0.8)
        swarm.restart(NAMES[7])
        swarm.run_to_end(within=10)
        assert swarm.nodes[NAMES[7]].counters.get("rounds_skipped") > 0
        assert sum(swarm.nodes[NAMES[0]].algorithm.c.values()) == 15


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    X = stopped_and_started(config(source, "torus", 30), 60)
    expected = after(uniform(tree_of("torus"), start(), 0.05), 60)
    np.testing.assert_allclose(X, expected, rtol=0, atol=1e-12)


def test_sums_of_another_tree_are_not_relayed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count without its sum would pull everybody towards 0."""
    counts, receive = {}, RelaySum.receive

    async def watching(self: RelaySum, node: NodeInterface, arrival: Arrival) -> Answer:
        counts[arrival.sender, node.id, arrival.round] = arrival.scalars["count"]
        return await receive(self, node, arrival)

    monkeypatch.setattr(RelaySum, "receive", watching)
    with simulated(config(source, "chain", 3, run__linger=True), stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        swarm.stop(*swarm.names)
        swarm.config = config(source, "star", 4)
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_to_end(within=10)
    # Node 5 relayed for 4 and 6 on the chain; on the star it knows of itself alone.
    assert (counts[NAMES[5], NAMES[4], 2], counts[NAMES[5], NAMES[0], 3]) == (3, 1)


def test_a_seed_is_a_run(source: str) -> None:
    (one, X), (again, Y), (other, _) = (
        trace_of(config(source, "torus", 30, **HASTY), seed) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert np.array_equal(X, Y)


@pytest.mark.parametrize("count", [0, 16, 1.5, -1, None])
def test_a_count_that_cannot_be_is_refused(source: str, count: float | None) -> None:
    with simulated(config(source, "chain", 5)) as swarm:
        node = swarm.nodes[NAMES[0]]
        scalars = {} if count is None else {"count": count}
        arrival = Arrival(NAMES[1], Purpose.MODEL, 0, 0, {"sum": np.zeros(10)}, scalars)
        with pytest.raises(PeerError, match="count"):
            virtual_time.run(node.algorithm.receive(node, arrival))


def test_it_needs_a_graph_that_goes_both_ways_and_stays(source: str) -> None:
    for graph in ("exponential", "one_peer_exponential", "random"):
        with pytest.raises(ConfigError, match="needs"):
            config(source, graph, 5)
