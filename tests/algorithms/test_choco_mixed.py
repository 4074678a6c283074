"""CHOCO by nodes whose codecs differ: each message tells how to read it, each edge finds its γ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from choco_swarms import AVERAGING, Witness, lagging, witness
from plain_learner import plain_config

from gossipnode.codecs.base import Codec
from gossipnode.codecs.sign import Sign
from gossipnode.codecs.topk import TopK
from gossipnode.codecs.uniform import Uniform
from gossipnode.simulation import Link, SimulatedSwarm

__all__ = ["witness"]

NODES, ROUNDS = 12, 60


def accuracies(codecs: Sequence[Codec]) -> list[float]:
    """Return what the nodes of a ring have learnt of digits, each with the codec given."""
    flags = {**AVERAGING, "training__local_steps": 5}
    made = plain_config(codec__name="uniform", run__rounds=ROUNDS, **flags)
    with SimulatedSwarm(made, NODES, link=Link(latency_s=0.001), objects=True) as swarm:
        for node, codec in zip(swarm.up, codecs, strict=True):
            node.codec = codec
        swarm.run_to_end(within=100)
        assert not lagging(swarm)
        assert [node.round for node in swarm.up] == [ROUNDS] * NODES
        return [float(node.learner.evaluate(node.params).accuracy or 0) for node in swarm.up]


@pytest.fixture(scope="module")
def by_8_bits() -> list[float]:
    return accuracies([Uniform(8, contractive=True) for _ in range(NODES)])


def test_nodes_with_2_4_and_8_bits_learn_as_by_8(by_8_bits: list[float], witness: Witness) -> None:
    mixed = accuracies([Uniform((2, 4, 8)[i % 3], contractive=True) for i in range(NODES)])
    assert witness.compared == NODES * 2 * ROUNDS
    assert np.mean(by_8_bits) > 0.85
    assert abs(np.mean(mixed) - np.mean(by_8_bits)) <= 0.01
    # Nobody pays for the others' bits, or for its own.
    by_bits = [np.mean(mixed[k::3]) for k in range(3)]
    assert max(by_bits) - min(by_bits) <= 0.01


def test_other_codecs_may_meet_as_well(by_8_bits: list[float], witness: Witness) -> None:
    made = [(Sign(), TopK(0.1), Uniform(8, contractive=True))[i % 3] for i in range(NODES)]
    mixed = accuracies(made)
    assert witness.compared == NODES * 2 * ROUNDS
    assert abs(np.mean(mixed) - np.mean(by_8_bits)) <= 0.01
