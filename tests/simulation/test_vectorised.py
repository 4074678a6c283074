"""The matrix engine against the event-driven one: the same models, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from q16 import q16

from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError
from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation.vectorised import VectorisedSwarm


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
    matrix = VectorisedSwarm(config, 9)
    matrix.run(12)
    # A dozen rounds of float32: another order of summing a row costs a few units of 6e-8 each.
    np.testing.assert_allclose(matrix.models, by_events, rtol=0, atol=3e-6)
    assert messages == 12 * matrix.messages_a_round


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


def test_more_nodes_than_samples() -> None:
    config = load_config(flags={"data.partition": "sample:8", "run.evaluate_every": 0})
    swarm = VectorisedSwarm(config, 1600)
    swarm.run(1)
    assert swarm.models.shape == (1600, 650)
    assert {learner.samples for learner in swarm.learners} == {8}
    shares = [learner._train_data.features.sum() for learner in swarm.learners[:50]]
    assert len(set(shares)) > 40


def test_gossip_has_no_matrix() -> None:
    with pytest.raises(ConfigError, match="asynchronous"):
        VectorisedSwarm(load_config(flags={"algorithm.name": "gossip"}), 4)
