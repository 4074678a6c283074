"""Gossip of rounded models: what is merged, what is kept, and what it saves."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.codecs.halves import BFloat16, Float16
from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError
from gossipnode.simulation import Link, SimulatedSwarm

HALVES = ["float16", "bfloat16"]
MANTISSA = {"float16": 11, "bfloat16": 8}
PUSH_PULL = {"algorithm__exchange": "push_pull", "algorithm__staleness": "constant"}


def begun() -> Any:
    return np.random.default_rng(4).standard_normal((6, 40))


def still(**flags: Any) -> SimulatedSwarm:
    """Return six nodes that learn nothing."""
    learners = [PlainLearner(row.tolist()) for row in begun()]
    config = plain_config(algorithm__name="gossip", algorithm__period_s=0.5, **flags)
    return SimulatedSwarm(config, 6, learners=learners, link=Link(latency_s=0.02))


def rounded(x: Any, bits: int) -> Any:
    """Round to so many significant bits, ties to even, by exact steps."""
    fractions, exponents = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(fractions, bits)), exponents - bits)


@pytest.mark.parametrize("name", HALVES)
def test_a_rounded_model_is_merged_into_one_that_is_not(name: str) -> None:
    flags = {"algorithm__staleness": "constant", "algorithm__merge_weight": 0.25}
    with still(codec__name=name, **flags) as swarm:
        swarm.run_until(lambda: any(n.counters.get("pushes_received") for n in swarm.up), within=5)
        pairs = [
            (X, node.params)
            for X, node in zip(begun(), swarm.up, strict=True)
            if node.counters.get("pushes_received") == 1
        ]
    assert pairs
    candidates = [rounded(x, MANTISSA[name]) for x in begun()]
    for before, after in pairs:
        off = [np.abs(before + 0.25 * (x - before) - after).max() for x in candidates]
        assert min(off) < 1e-15


@pytest.mark.parametrize("name", HALVES)
def test_exchanges_keep_the_sum_and_models_differ_by_their_last_digits(name: str) -> None:
    with still(codec__name=name, **PUSH_PULL) as swarm:
        swarm.run(60)
        for node in swarm.up:
            node.request_stop()
        swarm.run(5)
        X = swarm.models()
        exchanges = sum(node.counters.get("pushes_acknowledged") for node in swarm.up)
    assert exchanges > 500
    # Each exchange rounds a sum of values near 1 once or twice.
    assert np.abs(X.sum(0) - begun().sum(0)).max() < exchanges * 2e-16
    ulp = np.ldexp(1.0, np.frexp(np.abs(X).max(0))[1] - MANTISSA[name])
    assert (np.abs(X - X.mean(0)).max(0) <= 2 * ulp).all()
    assert np.abs(X - X.mean(0)).max() > 1e-6


def test_ends_may_differ_in_how_they_round() -> None:
    with still(**PUSH_PULL) as swarm:
        for i, codec in enumerate((None, Float16(), BFloat16())):
            swarm.up[i].codec = codec
        swarm.run(30)
        for node in swarm.up:
            node.request_stop()
        swarm.run(5)
        X = swarm.models()
        assert not any(node.counters.get("pushes_refused") for node in swarm.up)
    assert np.abs(X.sum(0) - begun().sum(0)).max() < 1e-12


@pytest.mark.parametrize("order", ["merge", "merge_update", "update"])
@pytest.mark.parametrize("name", HALVES)
def test_four_nodes_learn_the_digits_and_send_half_the_bytes(name: str, order: str) -> None:
    def learnt(codec: str) -> tuple[float, int]:
        config = load_config(
            flags={
                "run.evaluate_every": 0, "algorithm.name": "gossip", "algorithm.period_s": 0.5,
                "algorithm.order": order, "codec.name": codec,
            }
        )  # fmt: skip
        with SimulatedSwarm(config, 4, link=Link(latency_s=0.03), step_s=0.01) as swarm:
            swarm.run(20)
            accuracies = [node.learner.evaluate(node.params).accuracy for node in swarm.up]
            sent = sum(node.counters.get("bytes_sent") for node in swarm.up)
            return statistics.fmean(a for a in accuracies if a is not None), sent

    (plain, whole), (accuracy, half) = learnt("none"), learnt(name)
    assert plain > 0.85
    assert accuracy > plain - 0.02
    # Half of a body of 2600 bytes; the head, some 200 bytes, stays.
    assert 0.5 < half / whole < 0.57


@pytest.mark.parametrize("name", ["topk", "randomk", "sign", "qsgd", "uniform", "lowrank"])
def test_other_codecs_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="would never agree"):
        plain_config(algorithm__name="gossip", codec__name=name)


def test_the_same_seed_is_the_same_run() -> None:
    def trace() -> str:
        with still(codec__name="bfloat16") as swarm:
            swarm.run(20)
            return str(swarm.trace_hash)

    assert trace() == trace()
