"""CHOCO with bits that adapt: slow lines carry fewer, and the rounds of all get shorter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from choco_swarms import AVERAGING
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.choco_quality import isotropic_alignment
from gossipnode.codecs.uniform import Uniform
from gossipnode.errors import PeerError
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time

NODES, BYTES_S = 16, 100_000.0
SLOW = (0, 4, 8, 12)
LINK = Link(latency_s=0.001, up_bytes_s=BYTES_S)


def digits(adaptive: bool, seed: int = 0, slow: Sequence[int] = SLOW) -> SimulatedSwarm:
    """Return a ring in which the uplinks of some have a quarter of the others' bandwidth."""
    flags = {**AVERAGING, "run__rounds": 60, "training__local_steps": 5}
    made = plain_config(codec__name="uniform", codec__adaptive=adaptive, **flags)
    swarm = SimulatedSwarm(made, NODES, link=LINK, seed=seed, objects=True, step_s=0.0002)
    for i in slow:
        for j in (i - 1, i + 1):
            thin = Link(latency_s=LINK.latency_s, up_bytes_s=BYTES_S / 4)
            swarm.network.set_link(swarm.names[i], swarm.names[j % NODES], thin)
    return swarm


def accuracy(swarm: SimulatedSwarm) -> float:
    return float(np.mean([node.learner.evaluate(node.params).accuracy for node in swarm.up]))


def bits(swarm: SimulatedSwarm) -> list[int]:
    return [node.codec.bits for node in swarm.up]  # type: ignore[union-attr]


def test_slow_lines_carry_fewer_bits_and_all_are_sooner_there() -> None:
    with digits(adaptive=False) as plain:
        plain.run_to_end(within=100)
        assert bits(plain) == [8] * NODES
    with digits(adaptive=True) as swarm:
        swarm.run_until(lambda: all(node.round >= 10 for node in swarm.up), within=100)
        found = []
        while min(node.round for node in swarm.up) < 60:
            found.append(bits(swarm))
            swarm.run(0.1)
        swarm.run_to_end(within=100)
        assert len(found) > 10
        for chosen in found:
            assert all(b in (2, 4) if i in SLOW else b == 8 for i, b in enumerate(chosen))
        # Two thirds of a message are values: with a quarter of them it takes half as long.
        assert swarm.time < 0.6 * plain.time
        assert abs(accuracy(swarm) - accuracy(plain)) <= 0.01
        for i, node in enumerate(swarm.up):
            assert node.counters.get("missing_models") == 0
            # γ is that of the bits of now.
            kept = isotropic_alignment(node.params, Uniform(bits(swarm)[i], True), node.tensors)
            assert node.algorithm.quality.isotropic == kept  # type: ignore[attr-defined]
            assert node.algorithm.gamma >= kept / (2 - kept)  # type: ignore[attr-defined]


def test_a_seed_is_a_run() -> None:
    traces = []
    for seed in (3, 3):
        with digits(adaptive=True, seed=seed) as swarm:
            swarm.run(2.0)
            traces.append((swarm.trace_hash, bits(swarm)))
    assert traces[0] == traces[1]
    assert 8 in traces[0][1]
    assert min(traces[0][1]) < 8


def test_among_equals_all_bits_are_used() -> None:
    with digits(adaptive=True, slow=range(NODES)) as swarm:
        swarm.run(2.0)
        assert min(node.round for node in swarm.up) > 2
        assert bits(swarm) == [8] * NODES


# -- what is told ----------------------------------------------------------------------------------


def pair(**flags: Any) -> SimulatedSwarm:
    """Return three nodes that learn nothing."""
    made = plain_config(**{**AVERAGING, "run__rounds": 1000, "codec__name": "uniform", **flags})
    learners = [PlainLearner([float(i)] * 900) for i in range(3)]
    return SimulatedSwarm(made, 3, learners=learners, link=Link(latency_s=0.001, up_bytes_s=1e4))


def told(swarm: SimulatedSwarm, sender: str, **scalars: float) -> Arrival:
    """Return x̂ whole of a later life of ``sender``."""
    order = (swarm.nodes[sender].epoch + 1, 0)
    made = {"gamma": 1.0, "behind": 0, **scalars}
    return Arrival(sender, Purpose.MODEL, 0, 0, {"x": np.zeros(900)}, made, order=order, version=1)


def test_every_message_tells_the_seconds_of_a_round() -> None:
    with pair(codec__adaptive=True) as swarm:
        swarm.run(5)
        for node in swarm.up:
            heard = node.algorithm.pace.told  # type: ignore[attr-defined]
            assert heard.keys() == set(swarm.names) - {node.id}
            for j, seconds in heard.items():
                # 900 bytes; a message waits for the one before it and has a header.
                assert 0.09 < seconds < 0.3
                assert seconds == pytest.approx(900 / swarm.nodes[j].bytes_per_s, rel=0.1)


def test_who_does_not_adapt_tells_nothing() -> None:
    with pair() as swarm:
        swarm.run(2)
        assert not any(node.algorithm.pace.told for node in swarm.up)  # type: ignore[attr-defined]


def test_who_tells_nothing_any_more_or_is_gone_is_left_out() -> None:
    with pair(codec__adaptive=True) as swarm:
        swarm.run(2)
        node, (one, other) = swarm.up[0], swarm.names[1:]
        pace, codec = node.algorithm.pace, node.codec  # type: ignore[attr-defined]
        pace.told |= {one: 1e-9, other: 1e-9}
        pace.adapt(node, [one, other])
        assert codec.bits == 2  # type: ignore[union-attr]
        swarm.kill(other)
        swarm.run_until(lambda: not node.is_expected(other), within=100)
        pace.told |= {one: 1e-9, other: 1e-9}
        pace.adapt(node, [one, other])
        assert codec.bits == 4  # type: ignore[union-attr]  # the mean of two is half of the own
        virtual_time.run(node.algorithm.receive(node, told(swarm, one)))
        assert one not in pace.told
        pace.adapt(node, [one, other])
        assert codec.bits == 8  # type: ignore[union-attr]


def test_a_round_of_less_than_no_time_is_refused() -> None:
    with pair(codec__adaptive=True) as swarm:
        node, sender = swarm.up[0], swarm.names[1]
        with pytest.raises(PeerError) as refused:
            virtual_time.run(node.algorithm.receive(node, told(swarm, sender, round_s=-1.0)))
        assert refused.value.code == "unsupported_message"
        assert not node.algorithm.copies.of  # type: ignore[attr-defined]
