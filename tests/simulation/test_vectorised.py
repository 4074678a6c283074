"""The matrix engine against the event-driven one: the same models, to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from q16 import q16

from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError, TrainingError
from gossipnode.node.learners import learner_for
from gossipnode.node.place import Place
from gossipnode.simulation import SimulatedSwarm, stacked
from gossipnode.simulation.vectorised import VectorisedSwarm
from gossipnode.topology import build_sequence


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("graph", ["ring", "torus", "exponential", "star"])
def test_both_engines_agree_on_digits(form: str, graph: str) -> None:
    config = load_config(
        flags={
            "run.rounds": 12,
            "run.evaluate_every": 0,
            "algorithm.form": form,
            "topology.graph": graph,
            "training.momentum": 0.5,
        }
    )
    with SimulatedSwarm(config, 9) as swarm:
        swarm.run_to_end()
        by_events = swarm.models()
        messages = sum(swarm.frames.values())
        sent = [node.counters.get("bytes_sent") for node in swarm.up]
    matrix = VectorisedSwarm(config, 9)
    matrix.run(12)
    # A dozen rounds of float32: another order of summing a row costs a few units of 6e-8 each.
    np.testing.assert_allclose(matrix.models, by_events, rtol=0, atol=3e-6)
    assert matrix.traffic.messages == messages
    assert matrix.traffic.bytes_sent.tolist() == sent


def test_quadratics_agree_in_float64(tmp_path) -> None:
    A, b, best = q16()
    np.savez(tmp_path / "q16.npz", A=A, b=b)
    config = load_config(
        flags={
            "task.kind": "quadratic",
            "task.dtype": "float64",
            "data.source": f"npz:{tmp_path / 'q16.npz'}",
            "training.local_steps": 1,
            "training.learning_rate": 0.2,
            "run.rounds": 320,
            "run.evaluate_every": 0,
        }
    )
    matrix = VectorisedSwarm(config, 16)
    matrix.run(320)
    assert np.linalg.norm(matrix.models.mean(0) - best) == pytest.approx(0.1609011, rel=5e-6)
    assert matrix.consensus_distance() == pytest.approx(1.334071, rel=5e-6)


BATCHED: list[dict[str, Any]] = [
    {},
    {"data.partition": "dirichlet:0.3", "training.momentum": 0.9, "training.nesterov": True},
    {"data.partition": "quantity:0.5", "training.schedule": "cosine", "task.l2": 0.01},
    {"data.partition": "sample:40", "training.momentum": 0.5, "training.schedule_steps": 3,
     "training.schedule": "step"},
    {"data.share": "all", "training.batch_size": 7},
    {"data.share": "2/5", "data.partition": "shards:2"},
    {"training.batch_size": 0, "training.local_steps": 0},
]  # fmt: skip


@pytest.mark.parametrize("options", BATCHED, ids=lambda options: " ".join(map(str, options)))
@pytest.mark.parametrize("task", ["softmax", "linear"])
def test_many_nodes_in_one_go_take_the_steps_of_their_own_learners(
    task: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "BLOCK_NODES", 7)
    source = "digits"
    if task == "linear":
        rng = np.random.default_rng(3)
        x = rng.normal(size=(600, 5))
        np.savez(tmp_path / "rows.npz", x=x, y=x @ rng.normal(size=5) + 1)
        source = f"npz:{tmp_path / 'rows.npz'}"
        options = {k: v for k, v in options.items() if v != "dirichlet:0.3"}
    config = load_config(
        flags={"task.kind": task, "task.dtype": "float64", "data.source": source, **options}
    )
    nodes = 30
    learners = [learner_for(config, Place(f"n{i}", i, nodes)) for i in range(nodes)]
    one_go = VectorisedSwarm(config, nodes)
    apart = VectorisedSwarm(config, nodes, learners=learners)
    for _ in range(9):
        one_go.run(1)
        apart.run(1)
        np.testing.assert_allclose(one_go.models, apart.models, rtol=0, atol=1e-13)
        if config.training.local_steps:
            assert one_go.losses is not None
            np.testing.assert_allclose(one_go.losses, apart.losses, rtol=1e-12)
        else:
            assert one_go.losses is None


@pytest.mark.parametrize("task", ["mlp", "quadratic"])
def test_other_tasks_are_trained_node_by_node(task: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "q.npz", A=np.eye(3), b=np.arange(3.0))
    source = f"npz:{tmp_path / 'q.npz'}" if task == "quadratic" else "digits"
    config = load_config(
        flags={"task.kind": task, "data.source": source, "run.rounds": 4, "run.evaluate_every": 0}
    )
    with SimulatedSwarm(config, 5) as swarm:
        swarm.run_to_end()
        by_events = swarm.models()
    matrix = VectorisedSwarm(config, 5)
    matrix.run(4)
    np.testing.assert_allclose(matrix.models, by_events, rtol=0, atol=3e-6)


def test_more_nodes_than_samples() -> None:
    """Each of 1600 draws 8 of the 1437 samples, and steps from zero by what it drew."""
    swarm = VectorisedSwarm(load_config(flags={"data.partition": "sample:8"}), 1600)
    swarm.run(1)
    assert swarm.models.shape == (1600, 650)
    assert len(np.unique(swarm.models[:50], axis=0)) == 50


def test_distance_and_mean_are_those_of_the_rows() -> None:
    swarm = VectorisedSwarm(load_config(flags={"data.partition": "sample:8"}), 2500)
    swarm.models = np.random.default_rng(0).normal(1000, 1, (2500, 650)).astype(np.float32)
    exact = swarm.models.astype(np.float64)
    np.testing.assert_allclose(swarm.mean(), exact.mean(0), rtol=1e-14)
    away = np.sqrt(((exact - exact.mean(0)) ** 2).sum(1).mean())
    assert swarm.consensus_distance() == pytest.approx(away, rel=1e-12)


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("task", ["softmax", "mlp"])
def test_divergence_is_told(form: str, task: str) -> None:
    flags = {"algorithm.form": form, "task.kind": task} | {
        "training.learning_rate": 1e6,
        "training.momentum": 0.99,
        "task.l2": 1.0,
    }
    swarm = VectorisedSwarm(load_config(flags=flags), 3)
    with pytest.raises(TrainingError, match="learning_rate"):
        swarm.run(50)


def test_gossip_has_no_matrix() -> None:
    with pytest.raises(ConfigError, match="more than X"):
        VectorisedSwarm(load_config(flags={"algorithm.name": "gossip"}), 4)


@pytest.mark.parametrize("codec", ["float16", "randomk"])
def test_a_matrix_sends_nothing_that_a_codec_could_make_smaller(codec: str) -> None:
    with pytest.raises(ConfigError, match=codec) as refused:
        VectorisedSwarm(load_config(flags={"codec.name": codec}), 4)
    assert refused.value.key == "codec.name"
    assert "event-driven" in str(refused.value)


SEQUENCES = ["one_peer_exponential", "base", "el_oracle", "el_local", "od_equi_dyn"]


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("graph", SEQUENCES)
def test_graphs_that_change_follow_the_dense_recursion(form: str, graph: str) -> None:
    """X_{k+1} = W_k(X_k − ηG_k) or W_k X_k − ηG_k, W_k dense and from the sequence itself."""
    config = load_config(
        flags={"topology.graph": graph, "algorithm.form": form, "task.dtype": "float64"}
    )
    nodes = 11
    swarm = VectorisedSwarm(config, nodes)
    learners = [learner_for(config, Place(f"n{i}", i, nodes)) for i in range(nodes)]
    sequence = build_sequence(graph, nodes, seed=config.swarm.seed)
    X = swarm.models.copy()
    for k in range(10):
        swarm.run(1)
        trained = X.copy()
        for row, learner in zip(trained, learners, strict=True):
            learner.train(row, config.training.local_steps)
        W = sequence.at(k).dense()
        X = W @ trained if form == "atc" else W @ X + (trained - X)
        np.testing.assert_allclose(swarm.models, X, rtol=0, atol=1e-13)
    assert swarm.consensus_distance() > 1e-3


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("graph", SEQUENCES)
def test_both_engines_agree_on_graphs_that_change(form: str, graph: str) -> None:
    """Eleven nodes, whose ids differ in length: a header's bytes depend on id and degree."""
    flags = {"topology.graph": graph, "algorithm.form": form, "run.evaluate_every": 0}
    config = load_config(flags={**flags, "run.rounds": 12, "task.dtype": "float64"})
    with SimulatedSwarm(config, 11) as swarm:
        swarm.run_to_end()
        by_events = swarm.models()
        messages = sum(swarm.frames.values())
        sent = [node.counters.get("bytes_sent") for node in swarm.up]
    matrix = VectorisedSwarm(config, 11)
    matrix.run(12)
    np.testing.assert_allclose(matrix.models, by_events, rtol=0, atol=1e-13)
    assert matrix.traffic.messages == messages
    assert matrix.traffic.bytes_sent.tolist() == sent
