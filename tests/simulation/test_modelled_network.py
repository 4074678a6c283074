"""The modelled wires: exact instants of arrival, what is lost and what comes twice, all counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_learner import PlainLearner, plain_config

from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation.loop import run
from gossipnode.simulation.network import ModelledNetwork

Push = tuple[float, str, str, int]  # when, from, to, bytes


def arrivals(network: ModelledNetwork, pushes: Sequence[Push]) -> list[float | None]:
    """Return when each push is there; None where it is lost."""

    async def one(push: Push) -> float | None:
        instant, sender, receiver, nbytes = push
        await asyncio.sleep(instant)
        passage = network.send(sender, receiver, nbytes)
        await asyncio.sleep(passage.seconds)
        if not passage.is_lost:
            await asyncio.sleep(network.receive(sender, receiver, nbytes))
        return None if passage.is_lost else asyncio.get_running_loop().time()

    async def main() -> list[float | None]:
        return await asyncio.gather(*map(one, pushes))

    return run(main())


def test_a_perfect_wire_takes_no_time():
    assert arrivals(ModelledNetwork(Link(), 0), [(2.0, "a", "b", 10**9)]) == [2.0]


def test_latency_is_added_whatever_the_size():
    pushes = [(1.0, "a", "b", 1), (1.0, "b", "a", 10**9)]
    assert arrivals(ModelledNetwork(Link(latency_s=0.25), 0), pushes) == [1.25, 1.25]


def test_pushes_of_one_node_share_its_uplink_in_turn():
    """Each takes 1 s on the uplink; the third finds it free again."""
    network = ModelledNetwork(Link(latency_s=0.5, up_bytes_s=100), 0)
    pushes = [(0.0, "a", "b", 100), (0.0, "a", "c", 100), (4.0, "a", "b", 100), (0.0, "b", "c", 50)]
    assert arrivals(network, pushes) == [1.5, 2.5, 5.5, 1.0]


def test_pushes_to_one_node_share_its_downlink_in_turn():
    """Both are there after 0.5 s; the downlink takes 2 s for each."""
    network = ModelledNetwork(Link(latency_s=0.5, down_bytes_s=50), 0)
    pushes = [(0.0, "a", "c", 100), (0.0, "b", "c", 100), (0.0, "a", "b", 100)]
    assert arrivals(network, pushes) == [2.5, 4.5, 2.5]


def test_up_and_down_are_passed_one_after_the_other():
    network = ModelledNetwork(Link(latency_s=0.25, up_bytes_s=100, down_bytes_s=400), 0)
    assert arrivals(network, [(0.0, "a", "b", 100)]) == [1.0 + 0.25 + 0.25]


def test_who_arrives_first_has_the_downlink_first():
    """The later push, over the shorter wire, does not wait for the one that was sent before it."""
    network = ModelledNetwork(Link(latency_s=0.25, down_bytes_s=100), 0)
    network.set_link("a", "c", Link(latency_s=5.0, down_bytes_s=100))
    assert arrivals(network, [(0.0, "a", "c", 100), (1.0, "b", "c", 100)]) == [6.0, 2.25]


def test_one_direction_of_one_wire_may_be_unlike_the_others():
    network = ModelledNetwork(Link(latency_s=0.25), 0)
    network.set_link("a", "b", Link(latency_s=2.0))
    pushes = [(0.0, "a", "b", 1), (0.0, "b", "a", 1), (0.0, "a", "c", 1)]
    assert arrivals(network, pushes) == [2.0, 0.25, 0.25]


def test_jitter_is_uniform_up_to_its_bound():
    network = ModelledNetwork(Link(latency_s=1.0, jitter_s=0.5), 1)
    extra = np.array(arrivals(network, [(0.0, "a", "b", 1)] * 4000)) - 1.0
    assert ((extra >= 0) & (extra < 0.5)).all()
    # The mean of 4000 has a standard deviation of 0.5/sqrt(12·4000) = 0.0023.
    assert extra.mean() == pytest.approx(0.25, abs=5 * 0.0023)


@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_loss_has_its_chance_and_each_is_counted(loss):
    network = ModelledNetwork(Link(loss=loss), 2)
    lost = arrivals(network, [(0.0, "a", "b", 1)] * 4000).count(None)
    assert network.fired["loss"] == lost
    assert lost == pytest.approx(4000 * loss, abs=5 * (4000 * loss * (1 - loss)) ** 0.5)


@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_switching_loss_on_changes_no_latency(loss, seed):
    pushes = [(i / 8, "a", "b", 1) for i in range(40)]
    whole = arrivals(ModelledNetwork(Link(jitter_s=1.0), seed), pushes)
    some = arrivals(ModelledNetwork(Link(jitter_s=1.0, loss=loss), seed), pushes)
    assert all(b is None or b == a for a, b in zip(whole, some, strict=True))


@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_switching_duplicates_on_loses_no_other_push(duplicate, seed):
    pushes = [(i / 8, "a", "b", 1) for i in range(40)]
    alone = ModelledNetwork(Link(loss=0.5), seed)
    both = ModelledNetwork(Link(loss=0.5, duplicate=duplicate), seed)
    lost = [push is None for push in arrivals(alone, pushes)]
    drawn = [both.duplicates("a", "b") for _ in pushes]
    assert [push is None for push in arrivals(both, pushes)] == lost
    assert both.fired["duplicate"] == sum(drawn)


def test_a_seed_is_a_network():
    link, pushes = Link(jitter_s=1.0, loss=0.3), [(0.0, "a", "b", 1)] * 50
    one, again, other = (arrivals(ModelledNetwork(link, seed), pushes) for seed in (3, 3, 4))
    assert one == again != other


def test_a_cut_is_one_way_until_it_is_healed():
    network = ModelledNetwork(Link(), 0)
    network.cut(["a"], ["b", "c"])

    for sender, receiver in (("a", "b"), ("a", "c")):
        assert network.send(sender, receiver, 1).seconds == inf
        assert network.answer(sender, receiver, 1).seconds == inf
    for sender, receiver in (("b", "a"), ("c", "a"), ("b", "c")):
        assert network.send(sender, receiver, 1) == network.answer(sender, receiver, 1) == (0, 0)
    network.heal()
    assert network.send("a", "b", 1).seconds == 0
    assert network.fired["cut"] == 4


def test_a_push_over_a_cut_wire_times_out_and_one_within_its_time_does_not():
    config = plain_config(
        algorithm__name="gossip",
        training__local_steps=0,
        run__rounds=3,
        network__push_timeout_s=10.0,
    )
    learners = [PlainLearner([0.0]), PlainLearner([1.0])]
    with SimulatedSwarm(config, 2, link=Link(latency_s=4.5), learners=learners) as swarm:
        swarm.cut(["n0"], ["n1"])
        swarm.run_to_end()
        failed = {name: node.counters.get("pushes_failed") for name, node in swarm.nodes.items()}
        assert failed["n0"] > 0
        # Its push arrived, but the answer had to go where nothing goes.
        assert failed["n1"] > 0
        assert swarm.outcomes.keys() <= {"merged", "duplicate"}
        assert not swarm.frames["n0"]


def test_a_short_answer_waits_for_no_line_and_a_model_in_answer_does():
    async def main() -> list[float]:
        network = ModelledNetwork(Link(latency_s=0.5, up_bytes_s=100, loss=0.999), 0)
        network.send("b", "c", 1000)
        return [network.answer("b", "a", nbytes).seconds for nbytes in (0, 100)]

    assert run(main()) == [0.5, 11.5]


# -- what the nodes make of it ------------------------------------------------------------------


def swarm(link: Link, rounds: int = 50) -> SimulatedSwarm:
    """Two nodes that push to one another once a second, and train nothing."""
    config = plain_config(
        algorithm__name="gossip",
        training__local_steps=0,
        run__rounds=rounds,
    )
    return SimulatedSwarm(config, 2, link=link, learners=[PlainLearner([0.0]), PlainLearner([1.0])])


def outcomes(swarm: SimulatedSwarm) -> Counter[str]:
    with swarm:
        swarm.run_to_end()
    return swarm.outcomes


def test_on_a_perfect_network_every_push_is_merged_once():
    assert outcomes(swarm(Link())) == {"merged": 100}


def test_a_lost_reply_brings_the_push_a_second_time_and_it_is_not_merged_again():
    lossy = swarm(Link(reply_loss=0.3))
    found = outcomes(lossy)
    assert found.keys() == {"merged", "duplicate"}
    assert found["merged"] == 100
    assert 0 < found["duplicate"] <= lossy.network.fired["reply_loss"]


def test_a_push_that_comes_twice_is_merged_once():
    doubling = swarm(Link(latency_s=0.01, duplicate=0.5))
    found = outcomes(doubling)
    assert found["merged"] == 100
    # The last ones may still be on their way when the nodes are done.
    assert 0 < found["duplicate"] <= doubling.network.fired["duplicate"]
    assert found["duplicate"] >= doubling.network.fired["duplicate"] - 2


def test_a_lost_push_is_sent_again():
    lossy = swarm(Link(loss=0.2))
    found = outcomes(lossy)
    assert lossy.network.fired["loss"] > 10
    assert sum(node.counters.get("pushes_sent") for node in lossy.nodes.values()) > 100
    assert found["merged"] > 90
