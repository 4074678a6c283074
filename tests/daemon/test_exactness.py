"""The whole path is exact: real sockets, real threads, the same numbers as dense matrices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from q16 import q16, ring16

from gossipnode import Config, Node, load_config
from gossipnode.config import PeerEntry
from gossipnode.learning.learner import build_learner
from gossipnode.learning.params import consensus_distance


@contextlib.asynccontextmanager
async def http_swarm(config: Config, nodes: int) -> AsyncIterator[list[Node]]:
    """Return started nodes on loopback, each with a port of its own."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(nodes)]
    names = [f"n{i:02d}" for i in range(nodes)]
    peers = [
        PeerEntry(id=name, address=f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name, listener in zip(names, listeners, strict=True)
    ]
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for name, listener in zip(names, listeners, strict=True):
            named = config.model_copy(update={"node": config.node.model_copy(update={"id": name})})
            node = Node(named, peers=peers, listener=listener)
            started.append(await stack.enter_async_context(node))
        yield started


async def run_all(nodes: Sequence[Node]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for node in nodes:
            tasks.create_task(node.run())


def dpsgd_config(**options: object) -> Config:
    flags = {"run.evaluate_every": 0, "checkpoint.enabled": False}
    return load_config(flags=flags | {key.replace("__", "."): v for key, v in options.items()})


@pytest.mark.parametrize("form", ["atc", "cta"])
async def test_digits_over_http_equal_the_dense_recursion(form: str) -> None:
    n, rounds, seed = 5, 15, 7
    config = dpsgd_config(run__rounds=rounds, swarm__seed=seed, algorithm__form=form)
    async with http_swarm(config, n) as nodes:
        await run_all(nodes)
        found = np.stack([node.params for node in nodes])
        assert all(node.counters.get("missing_models") == 0 for node in nodes)
        assert all(node.counters.get("pushes_sent") == 2 * rounds for node in nodes)
    learners = [
        build_learner(task="softmax", data="digits", share_index=i, share_count=n,
                      partition_seed=seed, seed=seed)
        for i in range(n)
    ]  # fmt: skip
    eye = np.eye(n)
    W = (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3
    X = np.stack([learner.initial_params(seed) for learner in learners])
    for _ in range(rounds):
        trained = X.copy()
        for i, learner in enumerate(learners):
            learner.train(trained[i], 5)
        dense = X.astype(np.float64)
        X = (W @ trained if form == "atc" else W @ dense + (trained - dense)).astype(np.float32)
    # float32 rounding: |x| < 1, a few dozen operations of relative error 6e-8 each.
    np.testing.assert_allclose(found, X, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("form", "distance", "spread"),
    [
        ("atc", 0.1609011, 1.334071),
        pytest.param("cta", 0.1940559, 1.413208, marks=pytest.mark.long),
    ],
)
async def test_q16_over_http_lands_on_the_published_fixed_point(
    tmp_path: Path, form: str, distance: float, spread: float
) -> None:
    A, b, best = q16()
    np.savez(tmp_path / "q16.npz", A=A, b=b)
    rounds, eta = 320, 0.2
    config = dpsgd_config(
        task__kind="quadratic",
        task__dtype="float64",
        data__source=f"npz:{tmp_path / 'q16.npz'}",
        training__learning_rate=eta,
        training__local_steps=1,
        algorithm__form=form,
        run__rounds=rounds,
    )
    async with http_swarm(config, 16) as nodes:
        await run_all(nodes)
        X = np.stack([node.params for node in nodes])
    assert np.linalg.norm(X.mean(0) - best) == pytest.approx(distance, rel=5e-6)
    assert consensus_distance(list(X)) == pytest.approx(spread, rel=5e-6)
    W, dense = ring16(), np.zeros((16, 10))
    for _ in range(rounds):
        step = eta * (np.einsum("nij,nj->ni", A, dense) - b)
        dense = W @ (dense - step) if form == "atc" else W @ dense - step
    np.testing.assert_allclose(X, dense, rtol=0, atol=1e-11)
