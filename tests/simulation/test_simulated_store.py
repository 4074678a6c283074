"""The simulated disk: what was not synced is lost in a crash, and nothing else."""

from __future__ import annotations

import numpy as np
from plain_learner import PlainLearner, plain_config

from gossipnode.node.world import Snapshot
from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation.world import SimulatedStore


def snapshot(value: float) -> Snapshot:
    return Snapshot({"params": np.array([value])}, {"round": int(value), "peers": []})


def loaded(store: SimulatedStore) -> float | None:
    found = store.load()
    return None if found is None else float(found.arrays["params"][0])


def test_what_was_written_survives_a_crash_only_when_synced():
    store = SimulatedStore(keep=3)
    assert loaded(store) is None
    store.save(snapshot(1))
    store.crash()
    store.sync()
    assert loaded(store) is None
    store.save(snapshot(2))
    store.sync()
    store.save(snapshot(3))
    store.crash()
    store.crash()
    assert loaded(store) == 2


def test_what_is_kept_shares_no_memory_with_anybody():
    store, written = SimulatedStore(keep=3), snapshot(1)
    store.save(written)
    store.sync()
    written.arrays["params"][0] = 5
    written.facts["peers"].append("x")
    first = store.load()
    assert first is not None
    assert (first.arrays["params"][0], first.facts["peers"]) == (1, [])
    first.arrays["params"][0] = 7
    first.facts["peers"].append("y")
    again = store.load()
    assert again is not None
    assert (again.arrays["params"][0], again.facts["peers"]) == (1, [])


def test_so_many_are_kept_and_epochs_only_grow():
    store = SimulatedStore(keep=2)
    epochs = []
    for value in (1, 2, 3):
        store.save(snapshot(value))
        store.sync()
        epochs.append(store.next_epoch())
        store.crash()
    assert [float(s.arrays["params"][0]) for s in store.durable] == [2, 3]
    assert epochs == [1, 2, 3]


def lone(**flags: float) -> SimulatedSwarm:
    """One node whose every step adds 1 and takes a second; a checkpoint every ten."""
    config = plain_config(
        algorithm__name="gossip", algorithm__jitter=0.0, checkpoint__every_s=10.0, **flags
    )
    return SimulatedSwarm(config, 1, stores=True, step_s=0.25)


def test_a_killed_node_goes_on_from_its_last_checkpoint():
    with lone() as swarm:
        swarm._learners["n0"] = PlainLearner([0.0], 1.0)
        swarm.kill("n0")
        first = swarm.restart("n0")
        swarm.run(37)
        before, kept, at = first.params[0], first.durable_age, first.round
        assert before > kept > 20
        assert at - kept <= 11  # ten seconds and the step that closes the period
        swarm.kill("n0")
        swarm.run(60)
        again = swarm.restart("n0")
        assert again is not first
        assert again.epoch > first.epoch
        assert (again.params[0], again.age, again.round) == (kept, kept, kept)
        swarm.run(20)
        assert again.params[0] > kept + 15


def test_a_write_that_the_disk_had_no_time_for_is_lost():
    with lone() as swarm:
        swarm._learners["n0"] = PlainLearner([0.0], 1.0)
        swarm.kill("n0")
        store = swarm._stores["n0"]
        store.sync_s = 5.0
        swarm.restart("n0")
        swarm.run_until(lambda: store.unsynced is not None, within=20, every=0.125)
        swarm.run(4)
        assert store.unsynced is not None
        swarm.kill("n0")
        assert store.load() is None
        assert swarm.restart("n0").params[0] == 0
