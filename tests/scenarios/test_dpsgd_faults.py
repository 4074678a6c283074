"""What a D-PSGD swarm does when nodes die, hang, come late or lose their wires.

Three nodes on a ring, so each is the others' neighbour and every weight is 1/3. A round's
training takes one second and nothing else takes time, so every instant is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, entries, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Purpose
from gossipnode.config import Config
from gossipnode.node.checkpoint import FileStore
from gossipnode.simulation import loop as virtual_time

A, B, C = NAMES = ("a", "b", "c")
# Before and after an instant: no event of these scenarios lies in between.
EPSILON = 0.001


def ring(**flags: Any) -> Config:
    defaults = {"algorithm__deadline_s": 5.0, "run__rounds": 1000, "run__drain_deadline_s": 1.0}
    return plain_config(**{**defaults, **flags})


def steps(*, by_c: float = 0.0, start: float = 0.0) -> list[PlainLearner]:
    """Three learners that begin equal; only c's training moves its model."""
    return [PlainLearner([start], step) for step in (0.0, 0.0, by_c)]


async def until(instant: float) -> None:
    await asyncio.sleep(instant - asyncio.get_running_loop().time())


async def launched(swarm: MemorySwarm, step_s: float = 1.0) -> None:
    for name in swarm.nodes:
        swarm.worlds[name].step_s = step_s
        swarm.launch(name)
    await asyncio.sleep(0)


def rounds(swarm: MemorySwarm, *names: str) -> list[int]:
    return [swarm.nodes[name].round for name in names or swarm.nodes]


def get(swarm: MemorySwarm, name: str, counter: str) -> int:
    return swarm.nodes[name].counters.get(counter)


def in_virtual_time(scenario: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(scenario)


def test_in_lockstep_a_round_takes_as_long_as_its_training() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(), NAMES, steps()) as swarm:
            await launched(swarm)
            for k in range(1, 6):
                await until(k - EPSILON)
                assert rounds(swarm) == [k - 1] * 3
                await until(k + EPSILON)
                assert rounds(swarm) == [k] * 3

    in_virtual_time(scenario())


def test_the_slowest_node_sets_the_pace_and_nobody_is_suspected() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(), NAMES, steps()) as swarm:
            await launched(swarm)
            swarm.worlds[C].step_s = 4.5  # within the deadline of 5, after the first second
            await until(1 + 4.5 * 4 + EPSILON)
            assert rounds(swarm) == [5] * 3
            assert not any(get(swarm, n, "missing_models") for n in NAMES)
            assert not any(get(swarm, n, "peers_suspected") for n in NAMES)

    in_virtual_time(scenario())


def test_a_killed_process_costs_one_repeat_and_no_deadline() -> None:
    """Its host answers that nobody listens: tried again after 25 to 50 ms, then given up."""

    async def scenario() -> None:
        async with swarm_of(ring(), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            await swarm.kill(C)
            await until(3.025 - EPSILON)
            assert rounds(swarm, A, B) == [2, 2]
            await until(3.05 + EPSILON)
            assert rounds(swarm, A, B) == [3, 3]
            await until(12.05 + 10 * EPSILON)
            assert rounds(swarm, A, B) == [12, 12]  # a second a round: nobody is waited for
            assert swarm.nodes[A].peers[C].state == "suspect"
            assert get(swarm, A, "missing_models") == 10

    in_virtual_time(scenario())


def test_a_host_that_vanishes_costs_one_deadline() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.cut(A, C)
            swarm.cut(B, C)
            await until(8 - EPSILON)
            assert rounds(swarm, A, B) == [2, 2]
            for k in range(10):
                await until(8 + k + EPSILON)
                assert rounds(swarm, A, B) == [3 + k, 3 + k]

    in_virtual_time(scenario())


@pytest.mark.parametrize("form", ["atc", "cta"])
def test_a_paused_node_costs_one_deadline_and_is_welcomed_back(form: str) -> None:
    async def scenario() -> None:
        async with swarm_of(ring(algorithm__form=form), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.pause(C)
            await until(20.5)
            assert rounds(swarm, C) == [2]
            assert swarm.nodes[A].round >= 14
            assert swarm.nodes[A].peers[C].state == "suspect"
            assert get(swarm, A, "peers_suspected") == 1
            swarm.resume(C)
            await until(30.5)
            for name in (A, B):
                assert swarm.nodes[name].peers[C].state == "alive"
                assert get(swarm, name, "peers_suspected") == 1
            assert max(rounds(swarm)) - min(rounds(swarm)) <= 1
            assert get(swarm, C, "rounds_skipped") > 10
            missing = get(swarm, A, "missing_models")
            await until(40.5)
            assert get(swarm, A, "missing_models") == missing  # lockstep again
            assert min(rounds(swarm)) >= 22

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    ("staleness", "s"),
    [("constant", 1.0), ("polynomial", 6**-0.5), ("hinge", 1 / 11), ("exponential", np.exp(-0.5))],
)
def test_a_late_model_is_merged_with_its_weight_times_the_staleness(
    staleness: str, s: float
) -> None:
    """C hangs in round 2 from 2.5 s; the others wait to 8 s and are in round 7 at 12.5 s: δ = 5."""

    async def scenario() -> None:
        config = ring(algorithm__staleness=staleness)
        async with swarm_of(config, NAMES, steps(by_c=1.0)) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.pause(C)
            await until(12.5)
            assert rounds(swarm, A, B) == [7, 7]
            before = swarm.nodes[A].params[0]
            assert before == pytest.approx(2 / 3, abs=1e-15)
            swarm.resume(C)
            await until(12.5 + EPSILON)
            late = 2 / 3 + 1  # what c had trained in round 2
            for name in (A, B):
                after = swarm.nodes[name].params[0]
                assert after == pytest.approx(before + s / 3 * (late - before), abs=1e-15)
                assert get(swarm, name, "late_merged") == 1
                assert get(swarm, name, "late_dropped") == 0

    in_virtual_time(scenario())


def test_a_late_model_is_dropped_where_so_configured_and_counted() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(algorithm__late="drop"), NAMES, steps(by_c=1.0)) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.pause(C)
            await until(12.5)
            before = swarm.nodes[A].params
            swarm.resume(C)
            await until(12.5 + EPSILON)
            assert swarm.nodes[A].params is before
            assert get(swarm, A, "late_dropped") == 1
            assert get(swarm, A, "late_merged") == 0
            assert swarm.nodes[A].peers[C].state == "alive"

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    "step_s",
    [
        1.0,
        pytest.param(0.1),
    ],
)
def test_a_swarm_started_in_any_order_is_exact(step_s: float) -> None:
    """The last node begins 20 s after the first, past the deadline: no model is missed."""

    async def scenario() -> None:
        config = ring(run__rounds=6, algorithm__deadline_s=2.0)
        x = np.zeros(3)
        for _ in range(6):
            x = np.full(3, (x + np.array([0.0, 0.0, 1.0])).mean())
        swarm = MemorySwarm()
        for name, learner in zip(NAMES, steps(by_c=1.0), strict=True):
            if name == C:
                await until(20.0)
            swarm.add(config, name, entries(NAMES), learner)
            swarm.worlds[name].step_s = step_s
            await swarm.nodes[name].start()
            swarm.launch(name)
            await asyncio.sleep(0.25)
        await asyncio.gather(*swarm.tasks.values())
        swarm.check()
        np.testing.assert_allclose(swarm.models()[:, 0], x, rtol=0, atol=1e-15)
        assert not any(get(swarm, n, "missing_models") for n in NAMES)
        assert not any(get(swarm, n, "peers_suspected") for n in NAMES)
        # Who waits tries again every 1 to 2 s, so c's first round ends when it is dialled.
        assert 20 + 6 * step_s <= asyncio.get_running_loop().time() <= 22 + 6 * step_s

    in_virtual_time(scenario())


def test_a_neighbour_that_never_starts_is_waited_for_once() -> None:
    async def scenario() -> None:
        config = ring(algorithm__start_deadline_s=30.0)
        swarm = MemorySwarm()
        for name in (A, B):
            swarm.add(config, name, entries(NAMES), PlainLearner([0.0]))
        await swarm.start()
        await launched(swarm)
        await until(30 - EPSILON)
        assert rounds(swarm) == [0, 0]
        for k in range(10):
            await until(30 + k + EPSILON)
            assert rounds(swarm) == [1 + k, 1 + k]
        for task in swarm.tasks.values():
            task.cancel()
        await asyncio.gather(*swarm.tasks.values(), return_exceptions=True)

    in_virtual_time(scenario())


def test_a_node_restarted_from_its_checkpoint_catches_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = ring(checkpoint__every_s=2.0)
        async with swarm_of(config, (A, B), steps()[:2]) as swarm:
            peers = entries(NAMES)
            for name in (A, B):
                swarm.add(config, name, peers, PlainLearner([0.0]))
            store = FileStore(tmp_path, 3, lambda: 1000.0)
            swarm.add(config, C, peers, PlainLearner([0.0], 1.0), store)
            await swarm.start()
            await launched(swarm)
            await until(6.5)
            old = swarm.nodes[C]
            assert (old.round, old.age, old.durable_age) == (6, 6, 6)
            await swarm.kill(C)
            await until(20.5)
            assert min(rounds(swarm, A, B)) >= 19
            new = swarm.add(config, C, peers, PlainLearner([0.0], 1.0), store)
            swarm.worlds[C].step_s = 1.0
            await new.start()
            assert (new.round, new.age, new.durable_age) == (6, 6, 6)
            assert new.epoch > old.epoch
            swarm.launch(C)
            await until(30.5)
            assert max(rounds(swarm)) - min(rounds(swarm)) <= 1
            missing = [get(swarm, n, "missing_models") for n in NAMES]
            await until(35.5)
            assert [get(swarm, n, "missing_models") for n in NAMES] == missing
            assert min(rounds(swarm)) >= 30
            assert get(swarm, A, "pushes_refused") == 0

    in_virtual_time(scenario())


def test_a_cut_edge_heals() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(network__push_timeout_s=2.0), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.cut(A, C)
            await until(20.5)
            assert swarm.nodes[A].peers[C].state == "suspect"
            assert swarm.nodes[B].peers[C].state == "alive"
            # b hears both; one deadline of a and c is all that anybody waited.
            assert min(rounds(swarm)) >= 14
            swarm.heal()
            await until(30.5)
            assert swarm.nodes[A].peers[C].state == "alive"
            assert swarm.nodes[C].peers[A].state == "alive"
            missing = [get(swarm, n, "missing_models") for n in NAMES]
            await until(40.5)
            assert [get(swarm, n, "missing_models") for n in NAMES] == missing

    in_virtual_time(scenario())


def test_a_partition_heals_and_the_side_that_was_slower_skips_ahead() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(network__push_timeout_s=2.0), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.cut(A, C)
            swarm.cut(B, C)
            swarm.worlds[C].step_s = 3.0
            await until(60.5)
            gap = swarm.nodes[A].round - swarm.nodes[C].round
            assert gap > 20
            swarm.heal()
            swarm.worlds[C].step_s = 1.0
            await until(80.5)
            assert max(rounds(swarm)) - min(rounds(swarm)) <= 1
            assert get(swarm, C, "rounds_skipped") >= gap - 2

    in_virtual_time(scenario())


def test_rows_sum_to_one_whatever_fails() -> None:
    """Everybody holds the same model and nobody trains: no fault can move it."""

    async def scenario() -> None:
        config = ring(training__local_steps=1, network__push_timeout_s=2.0)
        names = [f"n{i}" for i in range(6)]
        async with swarm_of(config, names, [PlainLearner([3.7, -0.1]) for _ in names]) as swarm:
            for i, name in enumerate(names):
                swarm.worlds[name].step_s = 1.0 + 0.1 * i
                swarm.launch(name)
            rng = np.random.default_rng(5)
            for _ in range(60):
                one, other = rng.choice(names, 2, replace=False)
                match rng.integers(4):
                    case 0:
                        swarm.cut(one, other)
                    case 1:
                        swarm.pause(one)
                    case 2:
                        swarm.heal()
                    case _:
                        for name in names:
                            swarm.resume(name)
                await asyncio.sleep(rng.uniform(0.0, 4.0))
                np.testing.assert_allclose(swarm.models() - [3.7, -0.1], 0.0, atol=1e-13)
            assert sum(get(swarm, n, "late_merged") for n in names) > 10
            assert sum(get(swarm, n, "missing_models") for n in names) > 10

    in_virtual_time(scenario())


def test_a_node_stopped_while_it_waits_returns_at_once() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(algorithm__deadline_s=3600.0), NAMES, steps()) as swarm:
            await launched(swarm)
            swarm.worlds[C].step_s = 100.0
            await until(2.5)
            swarm.nodes[A].request_stop()
            await swarm.tasks[A]
            assert asyncio.get_running_loop().time() == 2.5
            assert swarm.nodes[A].peers[C].state == "alive"  # nobody is blamed for our stopping

    in_virtual_time(scenario())


def test_a_node_stopped_while_it_trains_returns_when_the_step_is_done() -> None:
    async def scenario() -> None:
        async with swarm_of(ring(algorithm__deadline_s=3600.0), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.pause(C)
            swarm.nodes[A].request_stop()
            await swarm.tasks[A]
            # The step ends at 3 s; then a frame to c, which hangs, has the drain deadline.
            assert asyncio.get_running_loop().time() == 4.0

    in_virtual_time(scenario())


def test_stopping_beside_a_hung_neighbour_takes_the_drain_deadline() -> None:
    async def scenario() -> None:
        config = ring(run__drain_deadline_s=7.0, algorithm__deadline_s=100.0)
        async with swarm_of(config, NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.pause(C)
            await until(4.5)  # a and b wait for c, to which a frame is on its way
            swarm.nodes[A].request_stop()
            await swarm.tasks[A]
            assert asyncio.get_running_loop().time() == 4.5 + 7.0

    in_virtual_time(scenario())


def test_a_budget_by_time_ends_with_the_round_under_way() -> None:
    async def scenario() -> None:
        config = ring(run__rounds=0, run__duration_s=6.5)
        async with swarm_of(config, NAMES, steps()) as swarm:
            await launched(swarm)
            await asyncio.gather(*swarm.tasks.values())
            assert asyncio.get_running_loop().time() == 7.0
            assert rounds(swarm) == [7, 7, 7]

    in_virtual_time(scenario())


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
def test_a_node_that_lingers_serves_its_model_and_stops_when_asked(order: tuple[str, ...]) -> None:
    async def scenario() -> None:
        config = ring(run__rounds=4, run__linger=True)
        async with swarm_of(config, NAMES, steps()) as swarm:
            await launched(swarm)
            await until(50.0)
            assert [node.state for node in swarm.nodes.values()] == ["finished"] * 3
            assert rounds(swarm) == [4, 4, 4]
            for name in order:
                swarm.nodes[name].request_stop()
                await swarm.tasks[name]
            assert asyncio.get_running_loop().time() == 50.0

    in_virtual_time(scenario())


def test_a_laggard_never_runs_past_its_budget() -> None:
    """Alone it is at round 4 of 10 when the edge heals; the neighbours have finished."""

    async def scenario() -> None:
        config = ring(run__rounds=10, run__linger=True, network__push_timeout_s=2.0)
        async with swarm_of(config, NAMES, steps()) as swarm:
            await launched(swarm)
            await until(0.5)
            swarm.cut(A, C)
            swarm.cut(B, C)
            swarm.worlds[C].step_s = 15.0
            await until(75.5)
            assert rounds(swarm, A, B) == [10, 10]
            assert rounds(swarm, C)[0] < 8
            swarm.heal()
            await until(200.0)
            assert swarm.nodes[C].state == "finished"
            assert rounds(swarm, C) == [10]

    in_virtual_time(scenario())


def test_every_buffered_model_is_mixed_or_counted_as_dropped() -> None:
    """What a node answered `buffered` for is in a mixed round, in an open one, or was counted."""

    async def scenario() -> None:
        async with swarm_of(ring(), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            swarm.worlds[C].step_s = 20.0  # it hears everything but falls behind
            await until(100.5)
            node = swarm.nodes[C]
            merged = node.counters.by_label("pushes_merged")
            algorithm: Any = node.algorithm
            still_open = sum(len(o.arrived) for o in algorithm.open.values())
            mixed = 2 * node.counters.get("rounds") - node.counters.get("missing_models")
            dropped = node.counters.get("late_dropped")
            assert get(swarm, C, "rounds_skipped") > 0
            assert merged["buffered"] == mixed + still_open + dropped

    in_virtual_time(scenario())


def test_a_late_model_before_the_first_round_of_a_new_life_is_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = ring(run__rounds=5)
        store = FileStore(tmp_path, 3, lambda: 1000.0)
        swarm = MemorySwarm()
        for name in NAMES:
            swarm.add(
                config, name, entries(NAMES), PlainLearner([0.0]), store if name == C else None
            )
        await swarm.run()
        await swarm.nodes[C].stop()
        c = swarm.add(config, C, entries(NAMES), PlainLearner([0.0]), store)
        await c.start()
        assert c.round == 5
        a = swarm.nodes[A]
        a.round = 3
        data = a.passive.frame({"x": np.array([9.0])}, Purpose.MODEL, 1).tobytes()
        receipt = await swarm.carry(A, C, data)
        assert receipt.reply is not None
        assert receipt.reply.status == "late"

    in_virtual_time(scenario())


def test_a_swarm_restarted_from_checkpoints_in_any_order_waits(tmp_path: Path) -> None:
    """After a power cut the nodes come back seconds apart, all within the deadlines."""

    async def scenario() -> None:
        stores = {name: FileStore(tmp_path / name, 3, lambda: 1000.0) for name in NAMES}
        for store in stores.values():
            store.open()
        swarm = MemorySwarm()
        for name in NAMES:
            swarm.add(ring(run__rounds=5), name, entries(NAMES), PlainLearner([0.0]), stores[name])
        await swarm.run()
        for name in NAMES:
            await swarm.nodes[name].stop()
        swarm.nodes.clear()
        swarm.tasks.clear()
        begin = asyncio.get_running_loop().time()
        for i, name in enumerate(NAMES):
            await until(begin + 2.0 * i)
            swarm.add(ring(run__rounds=25), name, entries(NAMES), PlainLearner([0.0]), stores[name])
            swarm.worlds[name].step_s = 0.1
            await swarm.nodes[name].start()
            swarm.launch(name)
        await asyncio.gather(*swarm.tasks.values())
        for store in stores.values():
            store.close()
        assert not any(get(swarm, n, "missing_models") for n in NAMES)

    in_virtual_time(scenario())


def test_the_last_model_reaches_a_neighbour_that_was_busy_for_a_moment() -> None:
    """Else the neighbour's last round goes without it, a whole deadline later."""

    async def scenario() -> None:
        async with swarm_of(ring(run__rounds=3), NAMES, steps()) as swarm:
            await launched(swarm)
            await until(2.5)
            inbox = swarm.nodes[C].inbox
            inbox.inflight_bytes_max = 0
            inbox.inflight_bytes += 1  # something else arrives until 3.05 s
            swarm.worlds[C].step_s = 1.0
            await until(3.05)
            inbox.inflight_bytes -= 1
            await until(20.0)
            assert get(swarm, C, "missing_models") == 0

    in_virtual_time(scenario())


@pytest.mark.parametrize(
    "absurd",
    [
        False,
        pytest.param(True),
    ],
)
def test_one_absurd_round_number_does_not_end_the_lockstep(absurd: bool) -> None:
    """B's frames take 0.7 s to A, in which quick C is already in the next round."""

    async def scenario() -> None:
        async with swarm_of(ring(run__rounds=20), NAMES, steps()) as swarm:
            swarm.latency_s = lambda sender, receiver: 0.7 if (sender, receiver) == (B, A) else 0.0
            await launched(swarm)
            swarm.worlds[C].step_s = 0.1
            await until(2.5)
            b = swarm.nodes[B]
            here, b.round = b.round, 10**9
            frame = b.passive.frame({"x": b.params}, Purpose.MODEL, b.age)
            b.round = here
            if absurd:
                await swarm.carry(B, A, frame.tobytes())
            await until(15.5)
            assert min(rounds(swarm)) >= 8
            assert not any(get(swarm, n, "missing_models") for n in NAMES)
            assert not any(get(swarm, n, "rounds_skipped") for n in NAMES)

    in_virtual_time(scenario())
