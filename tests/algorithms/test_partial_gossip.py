"""Gossip of parts and samples: exact covers, bits that stay, ages of parts, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner, plain_config
from q16 import q16

from gossipnode.algorithms.base import Purpose
from gossipnode.algorithms.partial_gossip import PartialGossip, seeded_mask
from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError, PeerError
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.message import Message

D = 11


def partial(form: str = "partitioned", **flags: Any) -> Config:
    common = {"algorithm__name": form, "training__local_steps": 0}
    return plain_config(**{**common, "algorithm__period_s": 1.0, **flags})


def sloped() -> PlainLearner:
    return PlainLearner([0.1 * i - 0.4 for i in range(D)])


def of(node: Node) -> PartialGossip:
    assert isinstance(node.algorithm, PartialGossip)
    return node.algorithm


async def send(
    swarm: MemorySwarm, values: Any, index: Mapping[str, Any], age: int
) -> tuple[str, str]:
    """Push some coordinates from two to one; return the answer's status and code."""
    sender, receiver = swarm.nodes["two"], swarm.nodes["one"]
    vector = np.array(values, sender.layout.dtype)
    frame = sender.passive.frame({"x": vector}, Purpose.MODEL, age, index=index)
    try:
        receipt = await swarm.carry("two", receiver.id, frame.tobytes())
    except PeerError as error:
        return "refused", error.code
    assert receipt.reply is not None
    return receipt.reply.status, receipt.reply.code or ""


def part(p: int, parts: int = 4) -> dict[str, Any]:
    return {"kind": "part", "part": p, "parts": parts}


# -- what is sent -----------------------------------------------------------------------------


def sent_by(config: Config, seconds: float, size: int = D) -> list[tuple[Message, Node]]:
    """Let two nodes run, and return every message."""
    found: list[tuple[Message, Node]] = []

    async def main() -> None:
        learners = [PlainLearner([float(i) for i in range(size)]) for _ in range(2)]
        async with swarm_of(config, ["one", "two"], learners) as swarm:
            for name in swarm.nodes:
                swarm.launch(name)
            await asyncio.sleep(seconds)
            found.extend((message, swarm.nodes[sender]) for sender, _, message in swarm.frames)

    virtual_time.run(main())
    return found


@pytest.mark.parametrize(("size", "parts"), [(11, 4), (12, 4), (5, 5), (3, 8), (7, 1)])
def test_the_parts_that_are_sent_are_an_exact_cover(size: int, parts: int) -> None:
    covered: dict[int, set[int]] = {}
    for message, _ in sent_by(partial(algorithm__parts=parts), 60.0, size):
        (piece,) = message.parts
        positions = range(piece.index["part"], size, piece.index["parts"])
        assert piece.size == len(positions)
        covered[piece.index["part"]] = set(positions)
    assert sorted(c for positions in covered.values() for c in positions) == list(range(size))


def test_samples_differ_and_have_their_share_on_average() -> None:
    shares, seeds, size = [], set(), 400
    for message, _ in sent_by(partial("sampled", algorithm__fraction=0.25), 60.0, size):
        (piece,) = message.parts
        mask = seeded_mask(piece.index["seed"], piece.index["fraction"], size)
        assert piece.size == np.count_nonzero(mask)
        shares.append(piece.size / size)
        seeds.add(piece.index["seed"])
    assert len(seeds) == len(shares) >= 100
    # Four standard deviations of the mean of so many coins.
    assert np.mean(shares) == pytest.approx(0.25, abs=4 * 0.433 / (size * len(shares)) ** 0.5)


def test_a_sample_is_never_empty() -> None:
    messages = sent_by(partial("sampled", algorithm__fraction=0.01), 30.0, 2)
    assert len(messages) >= 50
    assert all(message.parts[0].size >= 1 for message, _ in messages)


@given(st.integers(0, 2**64 - 1), st.floats(1e-6, 1.0), st.integers(1, 300), st.integers(1, 300))
def test_a_mask_is_the_seeds_and_that_of_fewer_coordinates_its_beginning(
    seed: int, fraction: float, few: int, more: int
) -> None:
    few, more = min(few, more), max(few, more)
    np.testing.assert_array_equal(
        seeded_mask(seed, fraction, few), seeded_mask(seed, fraction, more)[:few]
    )


def test_a_mask_is_philox_word_by_word() -> None:
    """The blocks in which it is drawn must not show: the oracle draws all words at once."""
    size = 150_000
    words = np.random.Philox(key=5).random_raw(size)
    expected = np.array([int(word) < 2**62 for word in words])
    np.testing.assert_array_equal(seeded_mask(5, 0.25, size), expected)


# -- what is merged ---------------------------------------------------------------------------


@given(
    p=st.integers(0, 3),
    own=st.integers(0, 50),
    other=st.integers(0, 50),
    seed=st.integers(0, 100),
)
def test_a_part_is_merged_by_its_age_and_all_else_keeps_every_bit(
    p: int, own: int, other: int, seed: int
) -> None:
    async def main() -> None:
        rng = np.random.default_rng(seed)
        x, theirs = rng.standard_normal(D), rng.standard_normal(len(range(p, D, 4)))
        learners = [PlainLearner(list(x)), PlainLearner(list(x))]
        async with swarm_of(partial(), ["one", "two"], learners) as swarm:
            node = swarm.nodes["one"]
            of(node).t = [7, 7, 7, 7]
            of(node).t[p] = own
            assert await send(swarm, theirs, part(p), other) == ("merged", "")
            a = other / (own + other) if own + other else 0.5
            expected = x.copy()
            expected[p::4] += a * (theirs - x[p::4])
            untouched = np.arange(D) % 4 != p
            assert node.params[untouched].tobytes() == x[untouched].tobytes()
            np.testing.assert_allclose(node.params, expected, rtol=0, atol=1e-15)
            ages = [7, 7, 7, 7]
            ages[p] = max(own, other)
            assert of(node).t == ages

    virtual_time.run(main())


def test_a_sample_is_averaged_and_all_else_keeps_every_bit() -> None:
    async def main() -> None:
        x, theirs = np.linspace(-1, 1, D), np.linspace(3, 5, D)
        learners = [PlainLearner(list(x)), PlainLearner(list(x))]
        async with swarm_of(partial("sampled"), ["one", "two"], learners) as swarm:
            node, mask = swarm.nodes["one"], seeded_mask(3, 0.5, D)
            node.replica.age = 100  # the ages have no say in it
            index = {"kind": "seeded", "seed": 3, "fraction": 0.5}
            assert 0 < np.count_nonzero(mask) < D
            assert await send(swarm, theirs[mask], index, 1) == ("merged", "")
            np.testing.assert_allclose(node.params[mask], (x + theirs)[mask] / 2, atol=1e-15)
            assert node.params[~mask].tobytes() == x[~mask].tobytes()

    virtual_time.run(main())


@pytest.mark.parametrize("order", ["merge", "merge_update"])
@pytest.mark.parametrize(
    ("form", "index", "size", "code"),
    [
        ("partitioned", {"kind": "part", "part": 1, "parts": 5}, 2, "unsupported_message"),
        ("partitioned", {"kind": "part", "part": 5, "parts": 6}, 1, "unsupported_message"),
        ("partitioned", {"kind": "seeded", "seed": 1, "fraction": 0.5}, 5, "unsupported_message"),
        ("partitioned", {"kind": "all"}, D, "unsupported_message"),
        ("sampled", {"kind": "part", "part": 1, "parts": 4}, 3, "unsupported_message"),
        ("sampled", {"kind": "all"}, D, "unsupported_message"),
        ("sampled", {"kind": "seeded", "seed": 3, "fraction": 0.5}, 1, "wrong_schema"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    order: str, form: str, index: dict[str, Any], size: int, code: str
) -> None:
    async def main() -> None:
        config = partial(form, algorithm__order=order)
        async with swarm_of(config, ["one", "two"], [sloped(), sloped()]) as swarm:
            node = swarm.nodes["one"]
            before = node.params
            assert await send(swarm, [1.0] * size, index, 3) == ("refused", code)
            assert node.params is before
            assert len(of(node).waiting) == 0

    virtual_time.run(main())


# -- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["merge", "merge_update"])
def test_training_makes_every_part_older(order: str) -> None:
    async def main() -> None:
        config = partial(algorithm__order=order, training__local_steps=3)
        learners = [PlainLearner([0.0] * D, step=1.0) for _ in range(2)]
        async with swarm_of(config, ["one", "two"], learners) as swarm:
            node = swarm.nodes["one"]
            swarm.launch("one")
            of(node).t = [2, 4, 6, 8]
            while node.counters.get("local_steps") < 3:
                await send(swarm, [0.0] * 3, part(1), 5)
                await asyncio.sleep(0.01)
            assert of(node).t == [5, 8, 9, 11]
            assert node.age == 5 + 3

    virtual_time.run(main())


@pytest.mark.parametrize("order", ["merge", "merge_update"])
def test_with_rates_by_age_each_part_takes_steps_of_its_own(order: str, tmp_path: Any) -> None:
    """One node of Q16: x[p] ← x[p] − (η/t[p])·g(x)[p], t counted up before each step."""
    A, b, _ = q16()
    np.savez(tmp_path / "q16.npz", A=A, b=b)
    eta, tau, parts = 0.3, 4, 3
    config = load_config(
        flags={
            "algorithm.name": "partitioned", "algorithm.parts": parts, "algorithm.order": order,
            "algorithm.part_rate": "age", "algorithm.period_s": 1000.0,
            "task.kind": "quadratic", "task.dtype": "float64",
            "data.source": f"npz:{tmp_path}/q16.npz", "training.learning_rate": eta,
            "training.local_steps": tau, "run.evaluate_every": 0, "swarm.seed": 1,
        }
    )  # fmt: skip
    names = [f"n{i:02d}" for i in range(16)]

    async def main() -> None:
        async with swarm_of(config, names) as swarm:
            node = swarm.nodes["n00"]
            algorithm = of(node)
            algorithm.t = [0, 2, 5]
            x, t = node.params.copy(), np.array([0, 2, 5])
            await algorithm.train(node)
            for _ in range(tau):
                t += 1
                g = A[0] @ x - b[0]
                x = x - eta * g / t[np.arange(10) % parts]
            np.testing.assert_allclose(node.params, x, rtol=0, atol=1e-12)
            assert algorithm.t == list(t)
            assert node.age == tau

    virtual_time.run(main())


# -- swarms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["partitioned", "sampled"])
@pytest.mark.parametrize("order", ["merge", "merge_update"])
@pytest.mark.parametrize("flow", ["proactive", "generalized"])
def test_swarms_agree_within_the_hull_under_loss(form: str, order: str, flow: str) -> None:
    X = np.random.default_rng(4).standard_normal((4, D))
    config = partial(
        form, algorithm__order=order, algorithm__flow=flow, network__push_timeout_s=1.0
    )
    learners = [PlainLearner(list(row)) for row in X]
    link = Link(latency_s=0.05, jitter_s=0.3, loss=0.1, reply_loss=0.1)
    with SimulatedSwarm(config, 4, learners=learners, link=link, objects=True) as swarm:
        while swarm.consensus_distance() > 1e-6:
            swarm.run(5.0)
            models = swarm.models()
            assert (models >= X.min(0) - 1e-12).all()
            assert (models <= X.max(0) + 1e-12).all()
            assert swarm.time < 400


def test_each_part_has_an_account_of_its_own() -> None:
    async def main() -> None:
        config = partial(algorithm__flow="simple", algorithm__period_s=1000.0)
        learners = [sloped(), sloped(), sloped()]
        async with swarm_of(config, ["one", "two", "three"], learners) as swarm:
            node = swarm.nodes["one"]
            swarm.launch("one")
            await asyncio.sleep(0.0)
            for account, balance in zip(of(node).accounts, (0, 3, 0, 3), strict=True):
                account.balance = balance
            for p in (0, 1):
                await send(swarm, [1.0] * 3, part(p), 5)
                await asyncio.sleep(0.001)
            assert [account.balance for account in of(node).accounts] == [0, 2, 0, 3]
            reactions = [m.parts[0].index["part"] for s, _, m in swarm.frames if s == "one"]
            assert reactions == [1]

    virtual_time.run(main())


def test_ages_survive_a_restart() -> None:
    config = partial(training__local_steps=2)
    learners = [PlainLearner([0.0] * D, step=1.0) for _ in range(3)]
    with SimulatedSwarm(config, 3, learners=learners, stores=True) as swarm:
        swarm.run(10.3)
        swarm.stop(*swarm.names)
        before = [list(of(node).t) for node in swarm.nodes.values()]
        assert min(min(t) for t in before) >= 18
        for name in swarm.names:
            swarm.restart(name)
        assert [of(node).t for node in swarm.up] == before


@pytest.mark.parametrize("form", ["partitioned", "sampled"])
def test_the_same_seed_gives_the_same_trace(form: str) -> None:
    def trace(seed: int) -> str:
        learners = [sloped() for i in range(4)]
        config = partial(form, swarm__seed=seed, algorithm__flow="randomized")
        with SimulatedSwarm(config, 4, learners=learners, link=Link(jitter_s=0.5)) as swarm:
            swarm.run(40.0)
            return swarm.trace_hash

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"order": "update"}, "takes whole models"),
        ({"order": "pass"}, "takes whole models"),
        ({"form": "sampled", "part_rate": "age"}, "samples have no age"),
    ],
)
def test_options_that_contradict_each_other_are_refused(flags: dict[str, str], what: str) -> None:
    named = {f"algorithm__{key}": value for key, value in flags.items()}
    with pytest.raises(ConfigError, match=what):
        partial("partial_gossip", **named)


def test_with_other_parts_than_before_none_begins_younger_than_it_was() -> None:
    """At age 0 a part would be given up for whatever arrives first."""
    before, after = (of_options(parts) for parts in (4, 6))
    before.t = [9, 7, 8, 12]
    after.restore(*before.state())
    assert after.t == [7] * 6


def of_options(parts: int) -> PartialGossip:
    options = partial(algorithm__parts=parts).algorithm
    return PartialGossip(options, 1)  # type: ignore[arg-type]
