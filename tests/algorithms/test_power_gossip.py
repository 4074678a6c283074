"""PowerGossip: the largest directions of each edge's difference, alike at both ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from plain_learner import plain_config
from power_gossip_swarms import (
    LAYOUT,
    PULL,
    Pulled,
    assert_alike,
    config,
    counted,
    drawn,
    drift,
    edges_of,
    recursion,
    spread,
    starts,
    swarm_of,
    torus,
)
from q16 import ring16
from q16_swarms import LINK, NAMES, Matrix, after, gradients, models_of, settings, start

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Purpose
from gossipnode.algorithms.low_rank_edge import Edge, applied, begun, exchanged, projected
from gossipnode.algorithms.power_gossip import PowerGossip
from gossipnode.codecs.matrices import split
from gossipnode.errors import ConfigError, PeerError
from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology import build_graph


@pytest.mark.parametrize("graph", ["ring", "torus"])
@pytest.mark.parametrize("rank", [1, 2])
def test_it_is_the_papers_recursion(graph: str, rank: int) -> None:
    """For twenty rounds: where two directions are nearly as large, rounding chooses between them.

    Last bits changed at the start have grown to 2e-14 by then, and to 2e-12 in forty.
    """
    rows, W = torus() if graph == "torus" else (build_graph("ring", 16).out_neighbours, ring16())
    expected = after(recursion(rows, W, rank, PULL), 20)
    with swarm_of(config(20, graph, rank), PULL) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        assert counted(swarm, "missing_models") == counted(swarm, "resyncs") == 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_both_ends_know_the_same_bits_after_every_round(dtype: str) -> None:
    with swarm_of(config(40, rank=2, task__dtype=dtype), PULL) as swarm:
        for k in range(1, 41):
            swarm.run_until(lambda k=k: all(n.round >= k for n in swarm.up), 1, every=1e-4)
            assert {n.round for n in swarm.up} == {k}
            assert {edge.t for edge in edges_of(swarm).values()} == {k}
            assert_alike(swarm)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_sum_of_all_models_stays(rank: int) -> None:
    with swarm_of(config(200, rank=rank)) as swarm:
        swarm.run_to_end(within=100)
        # Sixteen models' values of about 1 each: 1e-14 is a few last bits.
        assert drift(swarm) < 1e-14


@pytest.mark.long
def test_averaging_ends_in_consensus() -> None:
    with swarm_of(config(160, "torus", rank=4)) as swarm:
        swarm.run_to_end(within=100)
        assert spread(swarm.models()) < 1e-6
        assert drift(swarm) < 1e-13


def test_a_difference_of_low_rank_is_gone_at_once() -> None:
    """Two nodes that differ by two directions: the second exchange has both."""
    rng = np.random.default_rng(0)
    D = rng.standard_normal((30, 2)) @ rng.standard_normal((2, 20))
    X = np.zeros((2, LAYOUT.size))
    X[1, :600] = D.reshape(-1)
    learners = [Pulled(x, x, 0.0, "float64") for x in X]
    with SimulatedSwarm(
        config(2, "complete"), names=NAMES[:2], learners=learners, link=LINK
    ) as swarm:
        swarm.run_to_end(within=10)
        after_two = swarm.models()
    V = np.linalg.qr(drawn(*NAMES[:2], 0, 0, 2, 20))[0]
    left = D - D @ V @ V.T  # after the first, whose weights of a half take all of their part
    assert 0.1 < np.linalg.norm(left) / np.linalg.norm(D) < 1
    P = np.linalg.qr(D @ V)[0]
    left = left - P @ P.T @ left
    found = (after_two[1] - after_two[0])[:600].reshape(30, 20)
    np.testing.assert_allclose(found, left, rtol=0, atol=1e-13)
    assert np.linalg.norm(left) < 1e-12


def test_vectors_alone_are_mixed_as_by_dpsgd(source: str) -> None:
    def mixed(X: Matrix) -> Iterator[Matrix]:
        while True:
            X = ring16() @ (X - 0.05 * gradients(X))
            yield X

    found = models_of(settings(source, "power_gossip", 0.05, run__rounds=100))
    np.testing.assert_allclose(found, after(mixed(start()), 100), rtol=0, atol=1e-13)


def test_with_a_rank_that_saves_nothing_it_is_dpsgd() -> None:
    with (
        swarm_of(config(30, rank=20), PULL) as swarm,
        swarm_of(
            plain_config(
                algorithm__name="dpsgd", run__rounds=30, task__dtype="float64"
            ), PULL
        ) as other,
    ):  # fmt: skip
        swarm.run_to_end(within=100)
        other.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), other.models(), rtol=0, atol=1e-13)
        assert not any(edge.V for edge in edges_of(swarm).values())


def test_equal_models_stay_equal_and_their_bases_whole() -> None:
    learners = [Pulled(starts()[0], None, 0.0, "float64") for _ in NAMES]
    for learner in learners:
        learner.goal = learner.start
    with swarm_of(config(5), learners=learners) as swarm:
        swarm.run_to_end(within=10)
        assert np.array_equal(swarm.models(), np.tile(starts()[0], (16, 1)))
        for edge in edges_of(swarm).values():
            for V in edge.V:
                np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-14)
        assert_alike(swarm)


def test_messages_are_of_r_rows_or_r_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, receive = set(), PowerGossip.receive

    async def watching(self: PowerGossip, node: NodeInterface, arrival: Arrival) -> Answer:
        seen.add((arrival.round % 2, arrival.parts["p"].size, arrival.version == arrival.round))
        return await receive(self, node, arrival)

    monkeypatch.setattr(PowerGossip, "receive", watching)
    with swarm_of(config(10, rank=2)) as swarm:
        swarm.run_to_end(within=10)
        # 2 of 30 rows and 12, or of 20 columns and 25; and the bias.
        assert seen == {(0, 2 * (30 + 12) + 7, True), (1, 2 * (20 + 25) + 7, True)}
        pushes = counted(swarm, "pushes_sent")
        numbers = 8 * (5 * (84 + 7) + 5 * (90 + 7)) * 16 * 2
        assert pushes == 16 * 2 * 10
        assert 0 < counted(swarm, "bytes_sent") - numbers < 400 * pushes
        assert counted(swarm, "bytes_saved") == 8 * LAYOUT.size * pushes - numbers


# -- one edge ------------------------------------------------------------------------------------

PARTED = split(LAYOUT.tensors, 2)


def one_edge(k: int = 3) -> Edge:
    return begun(PARTED, "b", "a", k, np.dtype(np.float64))


def test_an_edge_begins_alike_at_both_ends_and_anew_each_round() -> None:
    other = begun(PARTED, "a", "b", 3, np.dtype(np.float64))
    assert one_edge().digest == other.digest
    assert one_edge().digest not in {
        one_edge(4).digest,
        begun(PARTED, "a", "c", 3, LAYOUT.dtype).digest,
    }
    for V in one_edge().V:
        np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-15)


def test_what_was_added_is_taken_back_to_the_bit_of_rounding() -> None:
    x, y = starts()[:2]
    edge = one_edge()
    for _ in range(3):
        lo, hi = (projected(v, PARTED, [edge])[0] for v in (x, y))
        after = exchanged(lo, hi, edge, PARTED)
        assert after is not None
        assert after.last is not None
        back = after.taken_back()
        assert (back.t, back.digest) == (edge.t, edge.digest)
        assert back.digest == after.before
        moved = applied(x, PARTED, [(0.25, after.last)])
        np.testing.assert_allclose(
            applied(moved, PARTED, [(-0.25, after.last)]), x, rtol=0, atol=1e-15
        )
        assert np.abs(moved - x).max() > 0.01
        edge = after


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_difference_out_of_range_is_no_exchange(dtype: str) -> None:
    largest = np.finfo(dtype).max
    edge = begun(PARTED, "a", "b", 0, np.dtype(dtype))
    lo = np.full(91, -largest, dtype)
    with np.errstate(over="ignore"):
        assert exchanged(lo, -lo, edge, PARTED) is None
    assert exchanged(lo, lo, edge, PARTED) is not None


@pytest.mark.parametrize(
    ("parts", "scalars", "phase", "code"),
    [
        (91, {}, 0, "unsupported_message"),
        (91, {"digest": 1}, 1, "unsupported_message"),
        (92, {"digest": 1}, 0, "wrong_schema"),
        (LAYOUT.size, {"digest": 1}, 0, "wrong_schema"),
    ],
)
def test_what_cannot_be_is_refused(
    parts: int, scalars: dict[str, float], phase: int, code: str
) -> None:
    with swarm_of(config(5)) as swarm:
        node = swarm.nodes[NAMES[0]]
        swarm.run(0.0)
        arrival = Arrival(
            NAMES[1], Purpose.MODEL, 0, 0, {"p": np.zeros(parts)}, scalars, phase=phase
        )
        with pytest.raises(PeerError) as caught:
            virtual_time.run(node.algorithm.receive(node, arrival))
        assert caught.value.code == code
        arrival = Arrival(NAMES[5], Purpose.MODEL, 0, 0, {"p": np.zeros(91)}, {"digest": 1})
        with pytest.raises(PeerError, match="no edge"):
            virtual_time.run(node.algorithm.receive(node, arrival))


def test_it_needs_one_symmetric_w_and_no_codec() -> None:
    for graph in ("exponential", "one_peer_exponential", "random"):
        with pytest.raises(ConfigError, match="needs"):
            config(5, graph)
    with pytest.raises(ConfigError, match="codec"):
        config(5, codec__name="topk")
