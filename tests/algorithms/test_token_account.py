"""Token accounts: the strategies' tables, what bounds every sequence of events, and who reacts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_swarm import swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Purpose
from gossipnode.algorithms.periodic import PeriodicGossip
from gossipnode.algorithms.token_account import Flow, TokenAccount
from gossipnode.errors import ConfigError
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.frame import decode

FLOWS: tuple[Flow, ...] = ("proactive", "reactive", "simple", "generalized", "randomized")


def balances(nodes: Iterable[Node]) -> list[int]:
    """Return what the nodes have saved, one account each."""
    found = []
    for node in nodes:
        assert isinstance(node.algorithm, PeriodicGossip)
        (account,) = node.algorithm.accounts
        found.append(account.balance)
    return found


def account_with(flow: Flow, balance: int, C: int = 20, A: int = 10) -> TokenAccount:
    account = TokenAccount(flow, C, A)
    account.balance, account.begun = balance, True
    return account


# P(a), R(a, useful), R(a, useless) at C = 20, A = 10, worked out by hand from the papers' rules.
TABLE: list[tuple[Flow, int, float, float, int]] = [
    ("proactive", 0, 1.0, 0, 0),
    ("proactive", 20, 1.0, 0, 0),
    ("reactive", 0, 0.0, 1, 0),
    ("reactive", 20, 0.0, 1, 0),
    ("simple", 0, 0.0, 0, 0),
    ("simple", 1, 0.0, 1, 1),
    ("simple", 19, 0.0, 1, 1),
    ("simple", 20, 1.0, 1, 1),
    ("generalized", 0, 0.0, 0, 0),
    ("generalized", 1, 0.0, 1, 0),
    ("generalized", 10, 0.0, 1, 0),
    ("generalized", 11, 0.0, 2, 1),
    ("generalized", 20, 1.0, 2, 1),
    ("randomized", 0, 0.0, 0, 0),
    ("randomized", 8, 0.0, 0.8, 0),
    ("randomized", 9, 0.0, 0.9, 0),
    ("randomized", 10, 1 / 11, 1, 0),
    ("randomized", 15, 6 / 11, 1.5, 0),
    ("randomized", 20, 1.0, 2, 0),
]


@pytest.mark.parametrize(("flow", "a", "p", "useful", "useless"), TABLE)
def test_strategies_are_those_of_the_paper(
    flow: Flow, a: int, p: float, useful: float, useless: int
) -> None:
    account, rng = account_with(flow, a), np.random.default_rng(0)
    assert account.proactive() == pytest.approx(p, abs=1e-15)
    drawn = [account.reactive(True, rng) for _ in range(4000)]
    assert set(drawn) <= {int(np.floor(useful)), int(np.ceil(useful))}
    # Four standard deviations of a mean of 4000 coins at the most uneven.
    assert np.mean(drawn) == pytest.approx(useful, abs=4 * 0.5 / 4000**0.5)
    assert account.reactive(False, rng) == useless


@given(
    flow=st.sampled_from(FLOWS),
    C=st.integers(1, 30),
    share=st.integers(1, 30),
    seed=st.integers(0, 1000),
    events=st.lists(st.sampled_from(["tick", "useful", "useless"]), max_size=300),
)
def test_balances_stay_within_capacity_and_sends_within_the_bound(
    flow: Flow, C: int, share: int, seed: int, events: list[str]
) -> None:
    account, rng = TokenAccount(flow, C, min(share, C)), np.random.default_rng(seed)
    sends, ticks = [0], [0]
    for event in events:
        sent = int(account.tick(rng)) if event == "tick" else account.spend(event == "useful", rng)
        assert 0 <= account.balance <= C
        sends.append(sent)
        ticks.append(int(event == "tick"))
    total, time = list(accumulate(sends)), list(accumulate(ticks))
    for start in range(len(total)):
        for end in range(start, len(total)):
            assert total[end] - total[start] <= time[end] - time[start] + C


@pytest.mark.parametrize("flow", FLOWS)
def test_each_period_of_a_swarm_is_a_message_or_a_token(flow: Flow) -> None:
    """Hence the long-run rate: one a period, less what is saved. Σ sent + Σ a = Σ periods."""
    periods, C = 120, 8
    config = plain_config(
        algorithm__name="gossip", algorithm__flow=flow, algorithm__token_capacity=C,
        algorithm__tokens_per_reaction=4, training__local_steps=0,
    )  # fmt: skip
    learners = [PlainLearner([0.0]) for _ in range(20)]
    link = Link(jitter_s=0.5)
    with SimulatedSwarm(config, 20, link=link, objects=True, learners=learners, seed=3) as swarm:
        swarm.run(periods)
        saved = balances(swarm.up)
        assert all(0 <= a <= C for a in saved)
        sent, replaced = counted(swarm, "pushes_sent"), counted(swarm, "pushes_replaced")
        slots = [s for node in swarm.up for s in node.courier.outbox._slots.values()]
        made = sent + replaced + sum(len(slot.waiting) for slot in slots)
        rounds = sum(node.round for node in swarm.up)
        if flow == "reactive":  # here a token that does not fit is lost
            assert made + sum(saved) <= rounds
        else:
            assert made + sum(saved) == rounds


def counted(swarm: SimulatedSwarm, counter: str) -> int:
    return sum(node.counters.get(counter) for node in swarm.up)


def test_who_received_sends_the_reaction() -> None:
    """One that has tokens gets a model of one that has none: what follows comes from it alone."""

    async def main() -> None:
        names = ["a", "b", "c", "d"]
        config = plain_config(
            algorithm__name="gossip", algorithm__flow="simple", algorithm__token_capacity=5,
            algorithm__period_s=1000.0, training__local_steps=0,
        )  # fmt: skip
        learners = [PlainLearner([float(i)]) for i in range(4)]
        async with swarm_of(config, names, learners) as swarm:
            for name in names:
                swarm.launch(name)
            await asyncio.sleep(0.0)
            receiver = swarm.nodes["b"]
            assert isinstance(receiver.algorithm, PeriodicGossip)
            receiver.algorithm.accounts[0].balance = 3
            sender = swarm.nodes["a"]
            frame = sender.passive.frame({"x": sender.params}, Purpose.MODEL, sender.age)
            await swarm.carry("a", "b", frame.tobytes())
            await asyncio.sleep(0.001)
            assert Counter(s for s, _, _ in swarm.frames) == {"a": 1, "b": 1}
            assert receiver.algorithm.accounts[0].balance == 2
            assert swarm.frames[1][1] != "b"

    virtual_time.run(main())


async def reaction_to(node: Node, age: int, own: int) -> bool:
    """Return what usefulness a model of an age has for a node of another."""
    seen: list[bool] = []
    assert isinstance(node.algorithm, PeriodicGossip)

    async def react(node: Node, useful: bool, part: int = 0) -> None:
        seen.append(useful)

    node.algorithm.react = react  # type: ignore[method-assign,assignment]
    node.replica.age = own
    frame = node.passive.frame({"x": node.params}, Purpose.MODEL, age)
    message, body = decode(bytearray(frame.tobytes()))
    message.sender = "other"
    await node.deliver(node.admit(message), body)
    return seen[0]


@pytest.mark.parametrize(("age", "own", "useful"), [(3, 3, True), (4, 3, True), (2, 3, False)])
def test_a_model_is_of_use_unless_it_is_behind(age: int, own: int, useful: bool) -> None:
    async def main() -> None:
        config = plain_config(algorithm__name="gossip", algorithm__flow="simple")
        async with swarm_of(config, ["one", "other"], [PlainLearner([0.0])] * 2) as swarm:
            assert await reaction_to(swarm.nodes["one"], age, own) is useful

    virtual_time.run(main())


def test_tokens_survive_a_restart() -> None:
    config = plain_config(
        algorithm__name="gossip", algorithm__flow="simple", training__local_steps=0
    )
    learners = [PlainLearner([0.0]) for _ in range(3)]
    with SimulatedSwarm(config, 3, learners=learners, stores=True) as swarm:
        swarm.run(12.3)
        swarm.stop(*swarm.names)
        before = balances(swarm.nodes.values())
        assert min(before) > 5
        for name in swarm.names:
            swarm.restart(name)
        assert balances(swarm.up) == before


def test_more_tokens_for_a_reaction_than_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than token_capacity"):
        plain_config(
            algorithm__name="gossip", algorithm__flow="randomized",
            algorithm__token_capacity=5, algorithm__tokens_per_reaction=6,
        )  # fmt: skip
