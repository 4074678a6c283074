"""Push-sum where a peer lies or a node lags: refusals that change nothing, and bounded memory."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner
from push_sum_swarms import config, held_by, mass_of, totals, watched

from gossipnode.algorithms.base import Purpose
from gossipnode.algorithms.mass import Sums, given
from gossipnode.algorithms.push_sum import PushSum
from gossipnode.errors import PeerError
from gossipnode.simulation import loop as virtual_time

FORMS = ["sgp", "overlap_sgp", "gossip"]
NAMES = ["one", "two", "three"]
HUGE = float(np.finfo(np.float64).max)
HUGE32 = float(np.finfo(np.float32).max)
HONEST = {"mass": 0.25, "count": 1, "since": 1}


def learners(dtype: str = "float64") -> list[PlainLearner]:
    return [PlainLearner([1.0, -1.0], dtype=dtype) for _ in NAMES]


async def say(
    swarm: MemorySwarm, sender: str, u: float, round_: int = 0, **scalars: float
) -> tuple[str, str]:
    """Let ``sender`` tell one something of the test's making; return status and code."""
    node = swarm.nodes[sender]
    node.round = round_
    parts = {"u": np.full(2, u, node.layout.dtype)}
    if node.layout.dtype == np.float32:
        parts["sum"] = np.full(2, HUGE32 if u == HUGE32 else 0.0, np.float32)
    frame = node.passive.frame(parts, Purpose.MODEL, 0, {**HONEST, **scalars})
    try:
        receipt = await swarm.carry(sender, "one", frame.tobytes())
    except PeerError as error:
        return "refused", error.code
    assert receipt.reply is not None
    return receipt.reply.status, receipt.reply.code or ""


LIES: list[dict[str, float]] = [
    {"mass": -0.25},
    {"mass": HUGE},
    {"count": -1},
    {"count": HUGE},
    {"since": -1},
    {"since": 2**62},  # a life that is yet to come
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_scalars_of_no_honest_node_are_refused_and_change_nothing(
    form: str, lie: dict[str, float]
) -> None:
    async def main() -> None:
        async with swarm_of(config(form), NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            before = node.params
            assert await say(swarm, "two", 0.25, **lie) == ("refused", "unsupported_message")
            assert node.params is before
            assert (held_by(node).w, held_by(node).seen) == (1.0, {})

    virtual_time.run(main())


@pytest.mark.parametrize("form", FORMS)
def test_params_that_would_not_be_finite_end_no_node(form: str) -> None:
    """In a round the lie has waited beside what honest peers sent: that is taken all the same."""

    async def main() -> None:
        settings = config(form, training__local_steps=0)
        async with swarm_of(settings, NAMES, learners("float32")) as swarm:
            node = swarm.nodes["one"]
            task = swarm.launch("one")
            await asyncio.sleep(0.01)
            answers = [
                await say(swarm, "two", HUGE32),
                await say(swarm, "three", 0.25),
            ]
            assert answers[0] == (("buffered", "") if form == "sgp" else ("refused", "not_finite"))
            await asyncio.sleep(3.0)
            assert not task.done()
            assert node.counters.get("waiting_refused") == (form == "sgp")
            assert held_by(node).seen["three"].w == 0.25
            assert "two" not in held_by(node).seen
            assert np.abs(node.params).max() <= 1.0

    virtual_time.run(main())


@pytest.mark.parametrize("form", FORMS)
def test_a_swarm_outlives_it(form: str) -> None:
    """What nobody took is owed on: the next honest sums hold what that of a round held."""

    async def main() -> None:
        settings = config(form, training__local_steps=0)
        async with swarm_of(settings, NAMES, learners("float32")) as swarm:
            node = swarm.nodes["one"]
            swarm.launch("one")
            await asyncio.sleep(0.01)
            await say(swarm, "two", HUGE32)
            await asyncio.sleep(1.0)
            await say(swarm, "two", 0.25, mass=0.5, count=2)
            await asyncio.sleep(1.0)
            assert held_by(node).seen["two"].w == 0.5

    virtual_time.run(main())


def test_a_node_that_lags_keeps_no_more_than_the_newest_of_each() -> None:
    """Its neighbours have gone on without it; all that they handed over is in the last message."""

    async def main() -> None:
        settings = config("sgp", training__local_steps=1)
        async with swarm_of(settings, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            assert isinstance(node.algorithm, PushSum)
            swarm.worlds["one"].step_s = 100.0
            swarm.launch("one")
            await asyncio.sleep(0.01)
            for k in range(300):
                for sender in ("two", "three"):
                    answer = await say(
                        swarm, sender, 0.25 * (k + 1), k, mass=0.25 * (k + 1), count=k + 1
                    )
                    assert answer[0] == "buffered"
            kept = sum(len(came) for came in node.algorithm.waiting.values())
            assert kept <= 2 * (2 + node.lead_max)
            await asyncio.sleep(250.0)
            assert [held_by(node).seen[j].w for j in ("two", "three")] == [75.0, 75.0]

    virtual_time.run(main())


@drawn(st.integers(0, 10**6), st.integers(0, 2**32))
def test_who_hands_over_all_keeps_its_model_however_many_rounds_it_had(
    rounds: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, w = rng.standard_normal(4), rng.uniform(0.05, 3.0)
    handed = rounds * rng.uniform(0.3, 0.6)
    old = Sums(z * handed, handed, rounds)
    after, rest, found = given(z, w, {"j": old}, {"j": 1.0})
    assert rest == 0.0
    np.testing.assert_array_equal(after, z)
    assert found["j"].w == handed + w


def test_a_replaced_machine_that_restarts_at_once_gets_no_mass_twice() -> None:
    """Its first checkpoint tells nothing of those that handed mass to its predecessor."""
    with watched(config(training__local_steps=0)) as swarm:
        swarm.run(5.0)
        swarm.kill("n2")
        swarm.wipe("n2")
        swarm.config = config(algorithm__joining=True, training__local_steps=0)
        swarm.w_expected = float("inf")  # it is not preserved here
        swarm.delivered = lambda *a: None  # type: ignore[method-assign]
        before = totals(swarm.up)[0]
        swarm.cut([name for name in swarm.names if name != "n2"], ["n2"])
        swarm.restart("n2")
        swarm.run(0.4)
        swarm.kill("n2")
        swarm.heal()
        swarm.restart("n2")
        swarm.run(5.0)
        assert totals(swarm.up)[0] < before + 1e-12
        assert mass_of(swarm.nodes["n2"]) > 0.05


def test_strangers_that_cannot_be_reached_fill_no_memory() -> None:
    """Each would leave a vector; whoever takes part says where it is, or is in the peer list."""

    async def main() -> None:
        settings = config("gossip", topology__graph="random")
        async with swarm_of(settings, NAMES, learners()) as swarm:
            node, sender = swarm.nodes["one"], swarm.nodes["two"]
            sender.address = None
            for number in range(50):
                sender.id = f"stranger{number}"
                assert await say(swarm, "two", 0.25) == ("refused", "not_a_neighbour")
            assert held_by(node).seen == {}
            assert held_by(node).w == 1.0

    virtual_time.run(main())


def test_who_leaves_finds_an_heir_among_those_it_has_heard_of() -> None:
    """Of many random peers the one that is drawn is hardly ever known to be there."""

    async def main() -> None:
        settings = config("gossip", topology__graph="random", algorithm__period_s=1000.0)
        async with swarm_of(settings, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            swarm.down |= {"three"}
            swarm.launch("one")
            await asyncio.sleep(0.01)
            assert await say(swarm, "two", 0.25) == ("merged", "")
            node.sample_peer = lambda: "three"  # type: ignore[method-assign]
            node.request_stop()
            await asyncio.sleep(1.0)
            assert held_by(node).w == 0.0
            assert held_by(node).sent["two"].w == 1.25

    virtual_time.run(main())
