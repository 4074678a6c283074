"""What a swarm costs its machine: one BLAS thread a node, and no traffic that grows with n²."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from cli_processes import Command, wait_for

from gossipnode.cli.swarm.models import Models, collect
from gossipnode.learning.learner import build_learner

# The loop's, the trainer's, the worker's, and the one that watches for the parent's end.
OF_A_NODE = 4
LIBUV = "libuv-worker"
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def threads(pid: int) -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="BLAS starts no thread on one core")
@pytest.mark.parametrize(("asked_for", "of_blas"), [(None, 0), ("2", 1)])
def test_a_node_has_one_blas_thread_unless_the_user_wants_more(
    tmp_path, monkeypatch, asked_for, of_blas
):
    for name in BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if asked_for:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", asked_for)
    # Products so large that BLAS divides them if it may.
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "wide.npz", x=rng.random((4000, 784), np.float32), y=rng.integers(10, size=4000)
    )
    words = ["swarm", "-n", "2", "--rounds", "0", "--data", "npz:wide.npz", "--out", "run"]
    words += ["--batch-size", "512", "--evaluate-every", "5", "--no-plot"]
    with Command(tmp_path, *words) as command:
        history = tmp_path / "run" / "history.jsonl"

        def all_measured() -> bool:
            return history.exists() and all(
                f'"node": "node-{i}", "round": 10' in history.read_text() for i in range(2)
            )

        wait_for(all_measured, "ten rounds of both nodes")
        counted = [threads(pid) for pid in command.children()]
    # libuv, which looks up names, has one thread where it has any.
    assert max(names.count(LIBUV) for names in counted) <= 1
    others = [len([name for name in names if name != LIBUV]) for names in counted]
    # BLAS may not have found a second core free in every node.
    assert max(others) == OF_A_NODE + of_blas


class Network:
    """Two nodes that have a model and no status."""

    def __init__(self, models: dict[str, bytes]) -> None:
        self.models = models

    async def get_bytes(self, url: str, limit: int, timeout_s: float) -> bytes:
        data = self.models[url]
        assert len(data) <= limit
        return data


async def test_summing_up_asks_each_node_for_its_model_alone():
    learner = build_learner(task="softmax", data="digits")
    files = {}
    for i, value in enumerate((0.25, 0.75)):
        params = np.full_like(learner.initial_params(0), value)
        views = dict(learner.layout.views(params))
        files[f"http://n{i}/v1/model"] = safetensors.numpy.save(views, {"round": str(7 + i)})
    models = Models()
    await collect(Network(files), {"a": "http://n0", "b": "http://n1"}, learner, models)
    assert models.rounds == {"a": 7, "b": 8}
    assert models.least_round == 7
    # Each differs from the mean by a quarter in every coordinate.
    assert models.spread.distance == pytest.approx(0.25 * np.sqrt(learner.layout.size), rel=1e-6)
    assert models.evaluations.keys() == {"a", "b"}
