"""PowerGossip: the largest directions of each edge's difference, alike at both ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from plain_learner import PlainLearner, plain_config
from q16 import ring16
from q16_swarms import (
    HASTY,
    LINK,
    NAMES,
    Matrix,
    after,
    gradients,
    lose,
    models_of,
    settings,
    source,
    start,
)

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Purpose
from gossipnode.algorithms.low_rank_edge import Edge, applied, begun, exchanged, projected
from gossipnode.algorithms.power_gossip import PowerGossip, PowerGossipOptions
from gossipnode.codecs.matrices import split
from gossipnode.config import Config
from gossipnode.errors import ConfigError, PeerError
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology import build_graph

__all__ = ["source"]

SHAPES = {"w": (30, 20), "bias": (7,), "k": (12, 5, 5)}
LAYOUT = Layout.of(SHAPES, "float64")
PULL = 0.1
# Steps take 10 ms where messages get lost: who waits 5 ms longer misses nothing else.
SHORT = {"algorithm__deadline_s": 0.005, "algorithm__start_deadline_s": 0.005}


class Pulled(PlainLearner):
    """Begins at ``start``, a model of matrices; each step goes ``pull`` of the way to ``goal``."""

    def __init__(self, start: Any, goal: Any, pull: float, dtype: str) -> None:
        super().__init__(start, dtype=dtype)
        self.layout = Layout.of(SHAPES, dtype)
        self.goal, self.pull = goal, pull

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params += (self.pull * (self.goal - params)).astype(params.dtype)
        return super().train(params, steps)


def starts(dtype: str = "float64", n: int = 16) -> Matrix:
    return np.random.default_rng(0).standard_normal((n, LAYOUT.size)).astype(dtype)


def goals(n: int = 16) -> Matrix:
    return np.random.default_rng(1).standard_normal((n, LAYOUT.size))


def config(rounds: int, graph: str = "ring", rank: int = 2, **flags: Any) -> Config:
    common = {"algorithm__name": "power_gossip", "algorithm__rank": rank}
    common |= {"topology__graph": graph, "run__rounds": rounds, "task__dtype": "float64"}
    return plain_config(**{**common, **flags})


def swarm_of(config: Config, pull: float = 0.0, **how: Any) -> SimulatedSwarm:
    """Return sixteen nodes that are pulled apart, or that only average."""
    dtype = config.task.dtype
    learners = [Pulled(*pair, pull, dtype) for pair in zip(starts(dtype), goals(), strict=True)]
    common = {"link": LINK, "objects": True, "names": NAMES, "learners": learners}
    return SimulatedSwarm(config, **{**common, **how})


def drawn(i: str, j: str, k: int, number: int, rank: int, columns: int) -> Matrix:
    """The V that two ids and a round draw, as the module says."""
    lo, hi = sorted((i, j))
    key = xxhash.xxh3_64_intdigest(f"{lo}\n{hi}\n{k}".encode())
    generator = np.random.Philox(key=np.array([key, number], np.uint64))
    words = generator.random_raw(rank * columns)
    return np.array([((int(w) >> 12) + 0.5) / 2**51 - 1 for w in words]).reshape(rank, -1).T


def recursion(rows: Sequence[Sequence[int]], W: Matrix, rank: int, pull: float) -> Iterator[Matrix]:
    """The paper's, all nodes at once: X_i += w_ij (X_j − X_i) V Vᵀ, V ← orth((X_j − X_i) V)."""
    X, G = starts(), goals()
    edges = [(i, j) for i, row in enumerate(rows) for j in row if i < j]
    cut = {"w": (slice(0, 600), 30, 20), "k": (slice(607, 907), 12, 25)}
    V = {
        (i, j, name): np.linalg.qr(drawn(NAMES[i], NAMES[j], 0, number, rank, n))[0]
        for i, j in edges
        for number, (name, (_, _, n)) in enumerate(cut.items())
    }
    k = 0
    while True:
        X = X + pull * (G - X)
        new = X.copy()
        for i, j in edges:
            D = X[j] - X[i]
            told = np.zeros_like(D)
            told[600:607] = D[600:607]
            for name, (part, m, n) in cut.items():
                M, v = D[part].reshape(m, n), V[i, j, name]
                p = M @ v if k % 2 == 0 else M.T @ v
                told[part] = (p @ v.T if k % 2 == 0 else v @ p.T).reshape(-1)
                V[i, j, name] = np.linalg.qr(p)[0]
            new[i] += W[i, j] * told
            new[j] -= W[i, j] * told
        X = new
        k += 1
        yield X


def torus() -> tuple[Sequence[Sequence[int]], Matrix]:
    rows = build_graph("torus", 16).out_neighbours
    W = np.zeros((16, 16))
    for i, row in enumerate(rows):
        W[i, list(row)] = 1 / 5
    return rows, W


def edges_of(swarm: SimulatedSwarm) -> dict[tuple[str, str], Edge]:
    return {(node.id, j): e for node in swarm.up for j, e in node.algorithm.edges.items()}


def assert_alike(swarm: SimulatedSwarm) -> None:
    """Both ends of every edge have the same V and know the same of the last exchange."""
    edges = edges_of(swarm)
    for (i, j), here in edges.items():
        there = edges[j, i]
        assert (here.t, here.digest, here.before) == (there.t, there.digest, there.before)
        pairs = [*zip(here.V, there.V, strict=True)]
        if here.last is not None and there.last is not None:
            pairs += zip(here.last.left, there.last.left, strict=True)
            pairs += zip(here.last.right, there.last.right, strict=True)
            pairs += [(here.last.plain, there.last.plain)]
        assert (here.last is None) == (there.last is None)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def counted(swarm: SimulatedSwarm, what: str) -> int:
    return sum(node.counters.get(what) for node in swarm.up)


def drift(swarm: SimulatedSwarm) -> float:
    """How far the sum of all models is from where it began, in the worst coordinate."""
    return float(np.abs(swarm.models().sum(0) - starts().sum(0)).max())


def spread(X: Matrix) -> float:
    """The consensus distance, of what it was at the start."""
    Y = starts()
    return float(np.linalg.norm(X - X.mean(0)) / np.linalg.norm(Y - Y.mean(0)))


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


# -- what gets lost -------------------------------------------------------------------------------


def test_what_one_end_alone_has_added_it_takes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 4, 5, 6, of=PowerGossip)  # 4 misses what 5 sends in round 6
    with swarm_of(config(12, **SHORT), step_s=0.01) as swarm:
        drifts = []
        for k in range(1, 13):
            swarm.run_until(lambda k=k: all(n.round >= k for n in swarm.up), 10, every=1e-4)
            drifts.append(drift(swarm))
        # 5 has added what 4 has not; in the next round it hears so.
        assert [k for k, gone in enumerate(drifts) if gone > 1e-13] == [6]
        assert drifts[6] > 1e-3
        taken = {node.id: node.counters.get("taken_back") for node in swarm.up}
        assert {name: number for name, number in taken.items() if number} == {NAMES[5]: 1}
        assert counted(swarm, "resyncs") == 0
        assert_alike(swarm)
        # One exchange did not take place, and of one round the other end knew nothing to use.
        assert edges_of(swarm)[NAMES[4], NAMES[5]].t == 10


def test_a_tenth_of_all_messages_lost_leaves_the_sum_when_losses_end() -> None:
    rng, receive = np.random.default_rng(1), PowerGossip.receive

    async def losing(self: PowerGossip, node: NodeInterface, arrival: Arrival) -> Answer:
        if arrival.round < 100 and rng.random() < 0.1:
            raise PeerError("not_finite", "lost")
        return await receive(self, node, arrival)

    with swarm_of(config(130, "torus", **SHORT), step_s=0.01) as swarm:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PowerGossip, "receive", losing)
            swarm.run_until(lambda: all(n.round >= 100 for n in swarm.up), 100, every=0.005)
            drifted, missing = drift(swarm), counted(swarm, "missing_models")
            spread_then = spread(swarm.models())
            swarm.run_to_end(within=100)
        assert drifted > 1e-3
        assert missing > 500
        assert counted(swarm, "taken_back") > 200
        assert counted(swarm, "resyncs") == 0
        assert drift(swarm) < 1e-13
        assert spread(swarm.models()) < spread_then
        assert_alike(swarm)


def test_both_ends_missing_each_other_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 4, 5, 6, of=PowerGossip)
    lose(monkeypatch, 5, 4, 6, of=PowerGossip)
    with swarm_of(config(12, **SHORT), step_s=0.01) as swarm:
        swarm.run_to_end(within=100)
        assert drift(swarm) < 1e-13
        assert counted(swarm, "taken_back") == counted(swarm, "resyncs") == 0
        # They suspect each other, and so miss more than the one round.
        rounds = 12 - edges_of(swarm)[NAMES[4], NAMES[5]].t
        assert counted(swarm, "missing_models") == 2 * rounds > 0
        assert_alike(swarm)


def test_who_went_back_to_a_checkpoint_begins_its_edges_anew_with_the_others() -> None:
    slow = {**HASTY, "checkpoint__every_s": 0.1}
    with swarm_of(config(250, "torus", **slow), PULL, step_s=0.01, stores=True) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[7])
        swarm.run(0.8)
        swarm.restart(NAMES[7])
        swarm.run_until(lambda: all(n.round >= 200 for n in swarm.up), 100, every=0.005)
        assert swarm.nodes[NAMES[7]].counters.get("rounds_skipped") > 0
        assert 0 < counted(swarm, "resyncs") <= 4 * 8  # of its four edges, at both ends
        began_anew = counted(swarm, "resyncs")
        swarm.run_to_end(within=100)
        assert counted(swarm, "resyncs") == began_anew
        assert_alike(swarm)
        of = [edge.t for (i, _), edge in edges_of(swarm).items() if i == NAMES[7]]
        assert len(of) == 4
        assert min(of) > 50


def test_a_swarm_that_is_stopped_goes_on_where_it_was() -> None:
    rows, W = torus()
    expected = after(recursion(rows, W, 2, PULL), 20)
    lingering = config(9, "torus", run__linger=True)
    with swarm_of(lingering, PULL, stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        swarm.stop(*swarm.names)
        swarm.config = config(20, "torus", run__linger=True)
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_until(lambda: all(n.round == 20 for n in swarm.up), within=60, every=0.1)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        assert counted(swarm, "resyncs") == 0
        assert {edge.t for edge in edges_of(swarm).values()} == {20}


def test_edges_of_another_rank_are_forgotten() -> None:
    one, other = (PowerGossip(PowerGossipOptions(rank=rank), 1) for rank in (1, 2))
    with swarm_of(config(3, rank=1, run__linger=True), stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        state = swarm.nodes[NAMES[0]].algorithm.state()
        one.restore(*state)
        assert one.state()[1] == state[1]
        swarm.stop(*swarm.names)
        swarm.config = config(6, rank=2)
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_to_end(within=10)
        assert {edge.t for edge in edges_of(swarm).values()} == {3}
        assert drift(swarm) < 1e-13
        assert_alike(swarm)
    assert other.state() == ({}, {"edges": {}})


def test_a_dead_node_blocks_nobody() -> None:
    slow = {"algorithm__deadline_s": 0.5, "network__push_timeout_s": 0.5}
    with swarm_of(config(60, **slow), PULL, step_s=0.01) as swarm:
        swarm.run(0.1)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=2.5)
        assert [node.round for node in swarm.up] == [60] * 15


def test_a_seed_is_a_run() -> None:
    def run(seed: int) -> tuple[str, Matrix]:
        link = Link(latency_s=0.001, jitter_s=0.002, loss=0.05)
        with swarm_of(config(30, "torus", **HASTY), PULL, seed=seed, link=link) as swarm:
            swarm.run_to_end(within=1000)
            return swarm.trace_hash, swarm.models()

    (one, X), (again, Y), (other, _) = run(1), run(1), run(2)
    assert one == again != other
    assert np.array_equal(X, Y)


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
        after = exchanged(edge, PARTED, lo, hi)
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
        assert exchanged(edge, PARTED, lo, -lo) is None
    assert exchanged(edge, PARTED, lo, lo) is not None


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
