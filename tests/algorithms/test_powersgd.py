"""PowerSGD: the dense recursion, the same bits on all nodes, and what losses and restarts do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms import powersgd
from gossipnode.algorithms.powersgd import PowerSGD
from gossipnode.codecs.matrices import Matrix, Split, drawn
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.simulation import Link, SimulatedSwarm

FORMS = ("ring", "naive", "server")
N, M, COLUMNS, ETA = 4, 14, 12, 0.2
SHAPES = {"w": (M, COLUMNS), "b": (COLUMNS,)}
D = M * COLUMNS + COLUMNS
LINK = Link(latency_s=0.01)
HASTY = {
    "algorithm__deadline_s": 1.0,
    "algorithm__start_deadline_s": 1.0,
    "network__push_timeout_s": 0.5,
}


def problem() -> tuple[Any, Any]:
    """Return the slopes and optima of the nodes, as rows: f_i(x) = ½ Σ_c h_ic (x_c − o_ic)²."""
    rng = np.random.default_rng(8)
    return rng.uniform(0.3, 1.5, (N, D)), rng.standard_normal((N, D))


SLOPES, OPTIMA = problem()
BEST = (SLOPES * OPTIMA).sum(0) / SLOPES.sum(0)


class Bowl(PlainLearner):
    """Each step descends f_i, of a matrix and a vector."""

    def __init__(self, i: int, dtype: str = "float64") -> None:
        super().__init__([0.0] * D, dtype=dtype)
        self.layout, self.i = Layout.of(SHAPES, dtype), i

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params -= (ETA * SLOPES[self.i] * (params - OPTIMA[self.i])).astype(params.dtype)
        return TrainResult(0.0, steps, 1)


def swarm_of(rounds: int, *, dtype: str = "float64", how: Any = None, **flags: Any) -> Any:
    given = {
        "algorithm__name": "powersgd", "run__rounds": rounds, "task__dtype": dtype,
        "training__local_steps": 2, **flags,
    }  # fmt: skip
    learners = [Bowl(i, dtype) for i in range(N)]
    return SimulatedSwarm(
        plain_config(**given), N, learners=learners, **{"link": LINK, "step_s": 0.01, **(how or {})}
    )


def models(rounds: int, **flags: Any) -> Any:
    with swarm_of(rounds, **flags) as swarm:
        swarm.run_to_end(within=1000)
        return swarm.models()


def moves(x: Any) -> Any:
    """Return what two steps make of x on each node, less x."""
    X = np.tile(x, (N, 1))
    for _ in range(2):
        X = X - ETA * SLOPES * (X - OPTIMA)
    return X - x


def recursion(rank: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield x, all e and the mean of what was put in, after each round; bases by LAPACK."""
    x, E, k = np.zeros(D), np.zeros((N, M, COLUMNS)), M * COLUMNS
    Q = drawn(1, 0, rank, COLUMNS).T
    while True:
        put_in = moves(x)
        G = put_in[:, :k].reshape(N, M, COLUMNS) + E
        P = np.linalg.qr(G.mean(0) @ Q)[0]
        Q = G.mean(0).T @ P
        x = x + np.concatenate([(P @ Q.T).ravel(), put_in[:, k:].mean(0)])
        E = G - P @ P.T @ G
        yield x, E, put_in.mean(0)


def everywhere(x: Any) -> Any:
    return np.broadcast_to(x, (N, D))


# -- the recursion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_all_nodes_are_the_dense_recursion_to_the_same_bit(form: str, rank: int) -> None:
    with swarm_of(12, algorithm__form=form, algorithm__rank=rank) as swarm:
        swarm.run_to_end(within=100)
        X = swarm.models()
        errors = [node.algorithm.e for node in swarm.up]
        for node in swarm.up:
            assert (node.round, node.age) == (12, 24)
            for counter in ("missing_models", "late_dropped", "restarts", "fallbacks"):
                assert node.counters.get(counter) == 0
    x, E, _ = next(islice(recursion(rank), 11, None))
    assert np.array_equal(X, everywhere(X[0]))
    np.testing.assert_allclose(X[0], x, rtol=0, atol=1e-12)
    for found, expected in zip(errors, E, strict=True):
        np.testing.assert_allclose(found[: M * COLUMNS], expected.ravel(), rtol=0, atol=1e-12)
        assert not found[M * COLUMNS :].any()


def test_what_was_sent_and_what_is_left_are_all_that_was_put_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On average over the nodes, for what they differ by need not be sent."""
    put_in, owed = [], powersgd.owed

    def noting(half: Any, x: Any, e: Any) -> Any:
        put_in.append(half - x)
        return owed(half, x, e)

    monkeypatch.setattr(powersgd, "owed", noting)
    with swarm_of(100, algorithm__form="naive") as swarm:
        swarm.run_to_end(within=100)
        x, left = swarm.models()[0], np.mean([node.algorithm.e for node in swarm.up], axis=0)
    np.testing.assert_allclose(x + left, np.sum(put_in, axis=0) / N, rtol=0, atol=1e-12)
    assert np.abs(left).max() > 1e-6


def of_full_rank(tensors: Any, rank: int) -> Split:
    """Return the split that no rank up to COLUMNS is worth."""
    del tensors, rank
    plain = (slice(M * COLUMNS, D),)
    return Split((Matrix(0, M, COLUMNS, COLUMNS),), plain)


def test_of_full_rank_it_is_the_exact_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = models(30, algorithm__name="allreduce")
    monkeypatch.setattr(powersgd, "split", of_full_rank)
    # Factors of full rank are more than the model.
    monkeypatch.setattr(PowerSGD, "size_fits", lambda *_: True)
    full = models(30, algorithm__form="naive")
    np.testing.assert_allclose(full, exact, rtol=0, atol=1e-12)


def test_a_model_without_matrices_is_averaged_as_it_is() -> None:
    def end(name: str) -> Any:
        learners = [PlainLearner([0.1 * c for c in range(7)], i + 0.5) for i in range(3)]
        config = plain_config(algorithm__name=name, run__rounds=5)
        with SimulatedSwarm(config, 3, learners=learners, link=LINK) as swarm:
            swarm.run_to_end(within=100)
            return swarm.models()

    np.testing.assert_allclose(end("powersgd"), end("allreduce"), rtol=0, atol=1e-14)


def test_it_comes_to_the_optimum_of_the_sum() -> None:
    """As near as the exact mean does, which τ = 2 leaves a little off."""
    exact = models(300, algorithm__name="allreduce", algorithm__form="naive")[0]
    assert np.linalg.norm(exact - BEST) < 1.0 < np.linalg.norm(BEST)
    assert np.linalg.norm(models(300, algorithm__form="naive")[0] - exact) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_a_message_has_no_more_than_the_factors(form: str) -> None:
    def sent(name: str) -> list[int]:
        with swarm_of(10, algorithm__name=name, algorithm__form=form) as swarm:
            swarm.run_to_end(within=100)
            counters = [node.counters for node in swarm.up]
        return [sum(c.get(f"bytes_{what}") for c in counters) for what in ("received", "saved")]

    factors, model = 2 * (M + COLUMNS) + COLUMNS, D
    (thin, saved), (whole, nothing) = sent("powersgd"), sent("allreduce")
    assert thin == pytest.approx(whole * factors / model, rel=1e-12)
    assert (thin + saved, nothing) == (whole, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_narrow_params_learn_too(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    X, exact = (models(200, dtype=each, algorithm__form="naive") for each in (dtype, "float64"))
    assert np.array_equal(X, everywhere(X[0]))
    off = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.08}[dtype]
    assert np.abs(X[0].astype(np.float64) - exact[0]).max() < off


# -- losses and restarts ---------------------------------------------------------------------------


def agree(swarm: Any) -> bool:
    X = [node.params for node in swarm.up]
    return all(np.array_equal(x, X[0]) for x in X)


@pytest.mark.parametrize("form", FORMS)
def test_the_others_go_on_in_thin_factors_without_one(form: str) -> None:
    with swarm_of(0, algorithm__form=form, **HASTY) as swarm:
        swarm.run(2)
        swarm.kill("n3")
        swarm.run(6)
        swarm.run_until(lambda: agree(swarm), within=2, every=0.01)
        restarts = [node.counters.get("restarts") for node in swarm.up]
        rounds = [node.round for node in swarm.up]
        swarm.run(5)
        assert [node.counters.get("restarts") for node in swarm.up] == restarts
        assert all(n.round > k + 15 for n, k in zip(swarm.up, rounds, strict=True))
        swarm.run_until(lambda: agree(swarm), within=2, every=0.01)


@pytest.mark.parametrize("half", range(1, 24, 2))
def test_whenever_a_node_of_the_ring_dies_nobody_waits_for_a_deadline(half: int) -> None:
    """One may have all of P, and wait for Q from one that is still without it."""
    with swarm_of(0) as swarm:
        swarm.run_until(lambda: min(node.round for node in swarm.up) >= 3, within=10, every=1e-4)
        swarm.run(LINK.latency_s * half / 2)
        swarm.kill("n2")
        before = max(node.round for node in swarm.up)
        swarm.run(3)  # a deadline is three times as long
        assert min(node.round for node in swarm.up) >= before + 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wiped", [False, True])
def test_one_that_comes_back_is_brought_together_with_the_others(form: str, wiped: bool) -> None:
    flags = {**HASTY, "checkpoint__every_s": 0.5}
    with swarm_of(0, algorithm__form=form, how={"stores": True}, **flags) as swarm:
        swarm.run(2)
        swarm.kill("n3")
        swarm.run(3)
        if wiped:
            swarm.wipe("n3")
        swarm.restart("n3")
        swarm.run(4)
        swarm.run_until(lambda: agree(swarm), within=3, every=0.01)
        assert max(node.counters.get("restarts") for node in swarm.up) > 0
        restarts = [node.counters.get("restarts") for node in swarm.up]
        rounds = [node.round for node in swarm.up]
        swarm.run(5)
        assert [node.counters.get("restarts") for node in swarm.up] == restarts
        assert all(n.round > k + 15 for n, k in zip(swarm.up, rounds, strict=True))


def test_models_that_differ_are_averaged_in_the_next_round() -> None:
    with swarm_of(2, run__linger=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=5, every=0.1)
        expected = []
        for i, node in enumerate(swarm.up):
            x = node.params + 0.25 * i
            expected.append(x + moves(x)[i])
        state = [(node.params + 0.25 * i, node.algorithm.e) for i, node in enumerate(swarm.up)]
    with swarm_of(1) as swarm, started_with(swarm, state):
        swarm.run_to_end(within=10)
        X = swarm.models()
        for node in swarm.up:
            assert node.counters.get("restarts") == 1
            assert node.algorithm.e is None
            assert node.algorithm.Q is None
    assert np.array_equal(X, everywhere(X[0]))
    np.testing.assert_allclose(X[0], np.mean(expected, axis=0), rtol=0, atol=1e-13)


@contextmanager
def started_with(swarm: Any, state: list[tuple[Any, Any]]) -> Iterator[None]:
    """Let each node begin with the x and e given."""
    run = PowerSGD.run

    async def begun(self: PowerSGD, node: Any) -> None:
        x, self.e = state[swarm.names.index(node.id)]
        await node.adopt(x.copy(), 0)
        await run(self, node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PowerSGD, "run", begun)
        yield


@pytest.mark.parametrize("form", FORMS)
def test_a_tenth_of_all_messages_lost_leaves_it_near(form: str) -> None:
    """But for rounds in which somebody was alone. What is left out of a round is dropped, too."""
    exact = models(150, algorithm__name="allreduce", algorithm__form="naive")[0]
    link = Link(latency_s=0.001, jitter_s=0.001, loss=0.1)
    flags = {**HASTY, "network__push_timeout_s": 0.05, "algorithm__deadline_s": 0.2}
    found = []
    with swarm_of(130, algorithm__form=form, how={"link": link, "seed": 4}, **flags) as swarm:
        for k in range(80, 130):
            swarm.run_until(lambda k=k: swarm.up[0].round > k, within=1000, every=0.002)
            found.append(np.linalg.norm(swarm.models() - exact, axis=1).max())
    assert np.median(found) < 0.15 * np.linalg.norm(exact)


@pytest.mark.parametrize("form", FORMS)
def test_a_swarm_that_stops_and_starts_goes_on_as_if_it_had_not(form: str) -> None:
    flags = {"algorithm__form": form, "run__linger": True}

    def finish(swarm: Any, rounds: int) -> None:
        done: Callable[[], bool] = lambda: all(n.round == rounds for n in swarm.up)  # noqa: E731
        swarm.run_until(done, within=60, every=0.1)

    with swarm_of(7, how={"stores": True}, **flags) as swarm:
        finish(swarm, 7)
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=5, every=0.1)
        swarm.stop(*swarm.names)
        run = swarm.config.run.model_copy(update={"rounds": 20})
        swarm.config = swarm.config.model_copy(update={"run": run})
        for name in swarm.names:
            swarm.restart(name)
        finish(swarm, 20)
        X = swarm.models()
    assert np.array_equal(X, models(20, **{**flags, "run__linger": False}))


def test_the_same_seed_is_the_same_run() -> None:
    def trace(seed: int) -> str:
        how = {"link": Link(latency_s=0.001, jitter_s=0.002, loss=0.05), "seed": seed}
        with swarm_of(20, how=how, **HASTY) as swarm:
            swarm.run_to_end(within=1000)
            return str(swarm.trace_hash)

    assert trace(1) == trace(1) != trace(2)


def test_a_ring_may_have_64_nodes_and_no_more() -> None:
    made: Any = PowerSGD(plain_config(algorithm__name="powersgd").algorithm, 1)
    assert (made.left.ring_max, made.right.ring_max) == (64, 64)


def test_another_codec_is_refused_with_what_serves() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.rank"):
        plain_config(algorithm__name="powersgd", codec__name="topk")
