"""Each checker finds what it is there for: its subject is broken on purpose, and it is told.

Every alarm carries seed, virtual time and the command that replays it; a sound swarm raises none.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms import gossip_learning
from gossipnode.algorithms import lockstep as lockstep_module
from gossipnode.algorithms.dpsgd import DPSGD
from gossipnode.errors import GossipNodeError
from gossipnode.node import inbox as inbox_module
from gossipnode.node.history import History
from gossipnode.node.inbox import Inbox
from gossipnode.node.outbox import Outbox
from gossipnode.node.passive import PassiveSide
from gossipnode.node.replica import Replica
from gossipnode.simulation import Link, SimulatedSwarm, SimulationError, checkers
from gossipnode.simulation.checkers import MergedOnce
from gossipnode.simulation.faults import Fired
from gossipnode.wire.message import Kind, Message


def swarm_of(
    *, nodes: int = 4, link: Link | None = None, learners: Any = None, **flags: Any
) -> SimulatedSwarm:
    config = plain_config(**{"run__rounds": 60, "run__drain_deadline_s": 1.0, **flags})
    return SimulatedSwarm(
        config,
        nodes,
        seed=7,
        link=link or Link(latency_s=0.01),
        step_s=0.1,
        learners=learners or [PlainLearner([float(i), 1.0]) for i in range(nodes)],
        replay="play --seed 7",
    )


def gossip(**more: Any) -> SimulatedSwarm:
    """A swarm on wires that deliver every push twice."""
    link = more.pop("link", Link(latency_s=0.01, duplicate=1.0))
    return swarm_of(link=link, algorithm__name="gossip", **more)


def push_pull(**more: Any) -> SimulatedSwarm:
    """A swarm that learns nothing and whose Σx therefore stays."""
    return gossip(
        algorithm__exchange="push_pull",
        algorithm__staleness="constant",
        training__local_steps=0,
        **more,
    )


def lockstep(**more: Any) -> SimulatedSwarm:
    deadlines = {"algorithm__deadline_s": 1.0, "algorithm__start_deadline_s": 1.0}
    return swarm_of(algorithm__name="dpsgd", **{**deadlines, **more})


@contextmanager
def told(what: str) -> Iterator[None]:
    """Expect an alarm that matches ``what`` and has all that a replay needs."""
    with pytest.raises(SimulationError) as raised:
        yield
    pattern = rf"seed 7, t = \d+\.\d{{6}} s: {what}; replay: play --seed 7"
    assert re.fullmatch(pattern, str(raised.value)), str(raised.value)


MAKE: list[Callable[..., SimulatedSwarm]] = [gossip, push_pull, lockstep]


@pytest.mark.parametrize("make", MAKE)
def test_a_sound_swarm_raises_no_alarm(make):
    with make(run__evaluate_every=1) as swarm:
        swarm.run(5.03)
        swarm.check()
        swarm.run_to_end()
    assert sum(swarm.frames.values()) > 200


# -- merged at most once ------------------------------------------------------------------------


def test_a_ledger_that_forgets_is_found_at_the_second_merge(monkeypatch):
    monkeypatch.setattr(Inbox, "mark", lambda self, message: True)
    monkeypatch.setattr(Inbox, "_is_duplicate", lambda self, message: False)
    with told(r"n\d merged \('n\d', \d+, \d+\) twice"), gossip() as swarm:
        swarm.run_to_end()


def test_the_alarm_has_the_instant_of_the_merge(monkeypatch):
    """Found at the delivery, and told at the next stop of virtual time."""
    monkeypatch.setattr(Inbox, "mark", lambda self, message: True)
    with pytest.raises(SimulationError) as raised, gossip() as swarm:
        swarm.run(50)
    instant = re.search(r"t = ([\d.]+) s", str(raised.value))
    assert instant is not None
    assert 0 < float(instant[1]) < 5


def message(sender: str = "a", epoch: int = 1, seq: int = 0) -> Message:
    return Message(
        kind=Kind.MODEL,
        swarm="s",
        schema="",
        algorithm="gossip",
        sender=sender,
        epoch=epoch,
        seq=seq,
    )


EVENTS = st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 12), st.booleans())


@given(st.lists(EVENTS, max_size=200))
def test_notes_of_merges_agree_with_a_set(events):
    notes, seen = MergedOnce("abcd"), set()
    for sender, epoch, seq, merged in events:
        fault, overtaken = notes.note("d", message(sender, epoch, seq), merged)
        assert bool(fault) == (merged and (sender, epoch, seq) in seen)
        assert overtaken == any((s, e) == (sender, epoch) and n > seq for s, e, n in seen)
        if merged:
            seen.add((sender, epoch, seq))
    assert notes.count("d") == len(seen)
    assert notes.count("a") == 0


@given(st.lists(st.sampled_from([0, 1, 2**31, 2**32 - 2, 2**32 - 1]), unique=True))
def test_numbers_up_to_the_last_are_told_apart(numbers):
    notes = MergedOnce("ab")
    assert [notes.note("b", message("a", 1, n), merged=True)[0] for n in numbers] == [""] * len(
        numbers
    )
    assert all("twice" in notes.note("b", message("a", 1, n), merged=True)[0] for n in numbers)


@pytest.mark.parametrize(
    "beyond", [message(seq=2**32), message("stranger")], ids=["number", "sender"]
)
def test_what_does_not_fit_its_bits_is_refused(beyond):
    fault, _ = MergedOnce("ab").note("b", beyond, merged=True)
    assert fault == f"{checkers.identity(beyond)} does not fit 20+12+32 bits"


def test_a_life_too_many_is_refused():
    notes = MergedOnce("ab")
    faults = [notes.note("b", message(epoch=epoch), merged=True)[0] for epoch in range(4097)]
    assert faults == [""] * 4096 + ["('a', 4096, 0) does not fit 20+12+32 bits"]


def test_a_merge_takes_eight_bytes():
    notes = MergedOnce("ab")
    for seq in range(1000):
        notes.note("b", message(seq=seq), merged=True)
    assert (notes.count("b"), notes.nbytes) == (1000, 8 * 1000)
    assert array("Q").itemsize == 8
    kept = notes.of("b")
    notes.note("b", message(seq=1000), merged=True)
    notes.go_back("b", kept)
    assert notes.note("b", message(seq=1000), merged=True)[0] == ""
    assert "twice" in notes.note("b", message(seq=999), merged=True)[0]
    notes.go_back("b", None)
    assert notes.nbytes == 0


def test_a_push_repeated_after_its_receivers_crash_may_be_merged_again():
    """What was merged and not kept is lost with the crash, so the repeat is no double merge."""
    config = plain_config(algorithm__name="gossip", run__rounds=100, network__push_timeout_s=1.0)
    learners = [PlainLearner([0.0]), PlainLearner([1.0])]
    link = Link(latency_s=0.01)
    with SimulatedSwarm(config, 2, seed=1, link=link, learners=learners, stores=True) as swarm:
        # No answer of n1 comes through, so n0 sends again what n1 has merged.
        swarm.cut(["n1"], ["n0"])
        swarm.run_until(lambda: swarm.outcomes["merged"] > 0, within=10, every=0.001)
        swarm.kill("n1")
        swarm.restart("n1")
        swarm.heal()
        merged = swarm.outcomes["merged"]
        swarm.run(20)
        assert swarm.outcomes["merged"] > merged


def unsound_restarts() -> None:
    """Crash and restart a node whose senders go on repeating what it may have merged."""
    config = plain_config(
        algorithm__name="gossip",
        algorithm__period_s=0.2,
        run__rounds=100_000,
        network__push_timeout_s=1.0,
        checkpoint__every_s=0.5,
    )
    learners = [PlainLearner([float(i)]) for i in range(4)]
    link = Link(latency_s=0.05, reply_loss=0.5, duplicate=0.5, jitter_s=1.0)
    with SimulatedSwarm(
        config, 4, seed=7, link=link, learners=learners, stores=True, replay="play --seed 7"
    ) as swarm:
        for _ in range(10):
            swarm.run(3)
            swarm.kill("n1")
            swarm.restart("n1")


def test_merges_that_the_disk_knows_are_not_made_again_after_a_crash() -> None:
    unsound_restarts()


def test_a_ledger_that_is_not_restored_is_found(monkeypatch):
    monkeypatch.setattr(Inbox, "restore", lambda *_: None)
    with told(r"n1 merged \('n\d', \d+, \d+\) twice"):
        unsound_restarts()


# -- params -------------------------------------------------------------------------------------


def end_with(spoil: Callable[[SimulatedSwarm], None]) -> None:
    """Let five seconds pass, spoil something, and leave the swarm to its checkers."""
    with gossip() as swarm:
        swarm.run(5)
        spoil(swarm)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ([np.nan, 0.0], "n1 has params that are not finite"),
        ([0.0, -np.inf], "n1 has params that are not finite"),
        ([0.0], r"n1 has params float64\(1,\), not in schema"),
        (np.zeros(2, np.float32), r"n1 has params float32\(2,\), not in schema"),
    ],
)
def test_params_that_are_not_finite_or_of_another_schema_are_told(params, what):
    def spoil(swarm: SimulatedSwarm) -> None:
        bad = np.array(params)
        bad.flags.writeable = False
        swarm.nodes["n1"].replica.params = bad

    with told(what):
        end_with(spoil)


def test_params_that_anyone_may_write_to_are_told():
    def spoil(swarm: SimulatedSwarm) -> None:
        swarm.nodes["n2"].replica.params = np.zeros(2)

    with told("n2 has params one may write to"):
        end_with(spoil)


def test_a_merge_that_gives_no_number_is_found_at_the_delivery(monkeypatch):
    async def merge(self: Replica, incoming: Any, weight: Any, age: int) -> None:
        incoming[0] = np.nan
        incoming.flags.writeable = False
        self.params = incoming

    monkeypatch.setattr(Replica, "merge", merge)
    with told(r"n\d has params that are not finite"), gossip(training__local_steps=0) as swarm:
        swarm.run(60)


# -- Σx -----------------------------------------------------------------------------------------


def test_a_merge_that_adds_is_found_by_the_sum(monkeypatch):
    def adding(incoming: Any, params: Any, weight: float) -> None:
        incoming *= weight
        incoming += params

    monkeypatch.setattr(gossip_learning, "merge_into", adding)
    with told(r"Σx moved by \S+, more than \S+"), push_pull() as swarm:
        swarm.run_to_end()


def test_an_exchange_that_only_one_end_merges_is_found_by_the_sum(monkeypatch):
    async def dropped(*_: Any) -> None:
        return

    monkeypatch.setattr(PassiveSide, "exchanged", dropped)
    with told(r"Σx moved by \S+, more than \S+"), push_pull() as swarm:
        swarm.run_to_end()


@pytest.mark.parametrize("form", ["atc", "cta"])
def test_a_row_that_does_not_sum_to_one_is_found_by_the_sum(monkeypatch, form):
    whole = lockstep_module.add_scaled
    monkeypatch.setattr(lockstep_module, "add_scaled", lambda acc, x, w: whole(acc, x, 0.999 * w))
    flags = {"training__local_steps": 0, "algorithm__form": form}
    with told(r"Σx moved by \S+, more than \S+"), lockstep(**flags) as swarm:
        swarm.run_to_end()


def test_learning_that_moves_the_sum_is_told_where_it_was_expected_to_stay():
    learners = [PlainLearner([0.0], 1e-6 * i) for i in range(4)]
    with lockstep(learners=learners) as swarm:
        swarm.run_to_end()
        with told(r"Σx moved by 0\.00036, more than .*"):
            swarm.expect_total_preserved()
        swarm.expect_total_preserved(tolerance=1e-3)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (gossip, "gossip promises it with push_pull and constant weights alone"),
        (lambda: push_pull(link=Link(latency_s=0.5)), "an exchange of n. is under way"),
        (lambda: push_pull(link=Link(reply_loss=0.1)), "an exchange of n. failed"),
        (lockstep, "n. is in another round than n0"),
        (lambda: lockstep(link=Link(loss=0.3)), "n. counts .* missing_models"),
    ],
)
def test_a_sum_that_nobody_promises_is_not_expected(make, why):
    with make() as swarm:
        if make is lockstep:
            swarm.pause("n0")
        swarm.run(9.25)
        with told(f"Σx need not be preserved: {why}"):
            swarm.expect_total_preserved()


def test_a_neighbour_that_is_missed_voids_the_promise():
    with lockstep() as swarm:
        swarm.run(2)
        swarm.cut(["n0"], ["n1"])
        swarm.run(5)
        swarm.heal()
        swarm.run_to_end()
        with told("Σx need not be preserved: n. counts .*"):
            swarm.expect_total_preserved()


# -- memory -------------------------------------------------------------------------------------


def test_memory_that_is_reserved_for_ever_is_told(monkeypatch):
    monkeypatch.setattr(Inbox, "release", lambda self, admission: None)
    with told(r"n0 still holds \d+ bytes for bodies"), gossip() as swarm:
        swarm.run(10)


def test_more_memory_for_bodies_than_allowed_is_found_at_the_delivery(monkeypatch):
    def admit(self: Inbox, message: Message) -> inbox_module.Admission:
        self.inflight_bytes += 1000
        return inbox_module.Admission(message, 1000, duplicate=False, held_bytes=1000)

    monkeypatch.setattr(Inbox, "admit", admit)
    monkeypatch.setattr(Inbox, "release", lambda self, admission: None)
    flags = {"network__inflight_bytes_max": 2500, "training__local_steps": 0}
    with told(r"n\d holds 3000 bytes for bodies, more than 2500"), gossip(**flags) as swarm:
        swarm.run(60)


def test_an_outbox_without_bound_is_told(monkeypatch):
    whole = Outbox.put
    monkeypatch.setattr(
        Outbox,
        "put",
        lambda self, peer, parcel, tasks, room=1: whole(self, peer, parcel, tasks, 99),
    )
    with told(r"n\d has \d+ models waiting for n1, more than 1"), gossip() as swarm:
        swarm.pause("n1")
        swarm.run(20)


def test_rounds_that_stay_open_are_told(monkeypatch):
    def hoarding(self: DPSGD, node: Any, k: int) -> Any:
        return self.open.setdefault(k, lockstep_module.OpenRound())

    monkeypatch.setattr(DPSGD, "open_round", hoarding)
    monkeypatch.setattr(DPSGD, "is_timely", lambda self, node, k: k > self.closed)
    with told(r"n1 has \d+ open rounds, more than 3"), lockstep() as swarm:
        swarm.run(1)
        swarm.slow_down("n1", 100.0)
        swarm.run(9)


def test_a_history_without_bound_is_told(monkeypatch):
    monkeypatch.setattr(History, "add", lambda self, row: self._rows.append(row))
    flags = {"run__history_max": 10, "run__evaluate_every": 1}
    with told(r"n0 has 1\d measurements, more than 10"), gossip(**flags) as swarm:
        swarm.run(12)


def test_ledgers_without_bound_are_told():
    with told("n0 has 3 ledgers, more than 2"), gossip() as swarm:
        swarm.run(20)
        swarm.nodes["n0"].senders_max = 2


# -- progress -----------------------------------------------------------------------------------


def test_a_node_that_waits_for_ever_is_told(monkeypatch):
    async def for_ever(self: DPSGD, node: Any, now: Any, k: int) -> None:
        if node.id == "n2" and k == 3:
            await asyncio.sleep(1e6)

    monkeypatch.setattr(DPSGD, "wait_for_neighbours", for_ever)
    with told(r"n2 is stuck: in round 3 for \S+ s"), lockstep(run__rounds=10_000) as swarm:
        swarm.run(30)


def test_neither_a_pause_nor_a_slow_machine_is_taken_for_stuck():
    with lockstep(run__rounds=10_000) as swarm:
        swarm.slow_down("n3", 100.0)
        swarm.pause("n2")
        swarm.run(60)
        swarm.check()
        swarm.resume("n2")
        swarm.slow_down("n3", 1.0)
        swarm.check()
        swarm.run(60)


def test_what_is_expected_in_vain_is_told():
    with gossip() as swarm:
        with told(r"consensus distance \S+, not below 0\.001"):
            swarm.expect_consensus_below(1e-3)
        with told("the condition did not hold within 3 s"):
            swarm.run_until(lambda: swarm.time > 5, within=3)
        swarm.pause("n0")
        with told("no round closed in 20 s by n0"):
            swarm.expect_progress(20)
        with told("1 nodes did not finish within 500 s"):
            swarm.run_to_end(within=500)


def test_a_node_that_ends_with_an_error_tells_how_to_replay_it():
    learners = [PlainLearner([0.0], step) for step in (0.0, 0.0, 0.0, np.inf)]
    with pytest.raises(GossipNodeError, match="diverged") as raised, gossip(learners=learners) as s:
        s.run(60)
    assert re.fullmatch(
        r"seed 7, t = \d+\.\d{6} s: n\d ended; replay: play --seed 7", raised.value.__notes__[0]
    )


def test_by_default_a_test_is_replayed_by_its_name(request):
    match = r"t = 0\.000000 s: no; replay: pytest "
    learners = [PlainLearner([0.0])] * 2
    with (
        pytest.raises(SimulationError, match=match) as raised,
        SimulatedSwarm(plain_config(), 2, learners=learners) as swarm,
    ):
        swarm.expect(False, "no")
    command = f"pytest {request.node.nodeid}"
    assert str(raised.value).endswith(command)


# -- faults -------------------------------------------------------------------------------------


def test_a_fault_that_is_not_declared_cannot_be_counted():
    fired = Fired()
    fired["kill"] += 2
    fired.update({"kill": 1, "cut": 4})
    assert fired == {"kill": 3, "cut": 4}
    with pytest.raises(KeyError, match="no fault kil; declare it in FAULTS"):
        fired["kil"] += 1
    with pytest.raises(KeyError):
        fired.update(["cutt"])
    with gossip() as swarm, pytest.raises(KeyError):
        swarm.network.fired["lost"] += 1
