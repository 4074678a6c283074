"""From one life to the next: a restart changes nothing, to the bit, and forgets no push."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, entries
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Purpose
from gossipnode.config import Config
from gossipnode.errors import StorageError
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.world import Snapshot
from gossipnode.simulation import loop as virtual_time

NAMES = ("a", "b", "c")


class ListStore:
    """Keeps snapshots in a list; ``full`` refuses them as a full disk does."""

    def __init__(self) -> None:
        self.saved: list[Snapshot] = []
        self.small: dict[str, bytes] = {}
        self.skipped: list[str] = []
        self.epoch = 0
        self.full = False

    def save(self, snapshot: Snapshot) -> None:
        if self.full:
            raise StorageError("cannot be written: the disk is full")
        self.saved.append(snapshot)

    def load(self) -> Snapshot | None:
        return self.saved[-1] if self.saved else None

    def write_small(self, name: str, data: bytes) -> None:
        self.small[name] = data

    def read_small(self, name: str) -> bytes | None:
        return self.small.get(name)

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch


def digits(rounds: int, **flags: Any) -> Config:
    return plain_config(run__rounds=rounds, training__local_steps=3, swarm__seed=4, **flags)


def life(config: Config, folder: Path | None) -> np.ndarray[Any, Any]:
    """Run a swarm of three to its budget, from and to the checkpoints in ``folder``."""

    async def main() -> np.ndarray[Any, Any]:
        swarm = MemorySwarm()
        stores = []
        for name in NAMES:
            kept = None
            if folder is not None:
                kept = FileStore(folder / name, 3, lambda: 1000.0)
                kept.open()
                stores.append(kept)
            swarm.add(config, name, entries(NAMES), store=kept)
        await swarm.run()
        for node in swarm.nodes.values():
            await node.drain()
            await node.stop()
        swarm.check()
        for kept in stores:
            kept.close()
        return swarm.models()

    return virtual_time.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"training__momentum": 0.9},
        {"training__momentum": 0.9, "training__nesterov": True, "algorithm__form": "cta"},
        {"training__schedule": "cosine", "training__schedule_steps": 40},
    ],
    ids=["sgd", "momentum", "nesterov-cta", "schedule"],
)
def test_two_lives_equal_one(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = life(digits(12, **options), None)
    half = life(digits(6, **options), tmp_path)
    second = life(digits(12, **options), tmp_path)
    assert not np.array_equal(half, whole)
    np.testing.assert_array_equal(second, whole)


def one(config: Config, store: Any, learner: PlainLearner | None = None) -> MemorySwarm:
    swarm = MemorySwarm()
    swarm.add(config, "a", entries("a"), learner or PlainLearner([1.0, 2.0], 0.5), store)
    return swarm


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"learner": PlainLearner([1.0, 2.0], meaning="cat")}, "schema"),
        ({"learner": PlainLearner([1.0, 2.0, 3.0])}, "schema"),
        ({"swarm__name": "other"}, "swarm"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change: dict[str, Any], word: str) -> None:
    async def main() -> None:
        store, learner = ListStore(), change.pop("learner", None)
        swarm = one(plain_config(run__rounds=2), store)
        await swarm.run()
        await swarm.nodes["a"].stop()
        other = one(plain_config(**change), store, learner)
        with pytest.raises(StorageError, match=rf"is of {word}.*--fresh"):
            await other.start()
        await other.nodes["a"].stop()
        assert len(store.saved) == 1, "what did not start writes nothing"

    virtual_time.run(main())


def test_fresh_begins_anew_and_yet_in_a_later_epoch() -> None:
    async def main() -> None:
        store = ListStore()
        swarm = one(plain_config(run__rounds=3), store)
        await swarm.run()
        await swarm.nodes["a"].stop()
        again = one(plain_config(checkpoint__fresh=True), store)
        await again.start()
        node = again.nodes["a"]
        assert (node.round, node.age, node.durable_age, node.epoch) == (0, 0, 0, 2)
        np.testing.assert_array_equal(node.params, [1.0, 2.0])

    virtual_time.run(main())


def test_durable_age_moves_only_when_the_disk_has_said_so() -> None:
    async def main() -> None:
        store = ListStore()
        swarm = one(plain_config(run__rounds=20, checkpoint__every_s=3.0), store)
        await swarm.start()
        node = swarm.nodes["a"]
        swarm.worlds["a"].step_s = 1.0
        swarm.launch("a")
        await asyncio.sleep(4.5)
        assert (node.age, node.durable_age) == (4, 3)
        store.full = True
        await asyncio.sleep(5.0)
        assert (node.age, node.durable_age) == (9, 3)
        assert node.counters.get("checkpoint_failures") == 2
        assert "disk is full" in node.status().checkpoint_error
        store.full = False
        await asyncio.sleep(3.0)
        assert node.durable_age == 12
        assert node.status().checkpoint_error == ""
        await swarm.tasks["a"]
        await node.stop()
        await node.stop()
        assert node.durable_age == 20
        assert [s.facts["age"] for s in store.saved] == [3, 12, 15, 18, 20]

    virtual_time.run(main())


def test_a_node_that_lingers_keeps_what_it_merges_and_finds_a_disk_that_has_room_again() -> None:
    """It merges until it is stopped: a crash cost all of that, and the alarm stayed for good."""

    async def main() -> None:
        config = plain_config(
            algorithm__name="gossip", run__rounds=1, run__linger=True, checkpoint__every_s=30.0
        )
        store = ListStore()
        swarm, peers = MemorySwarm(), entries(["a", "b"])
        b = swarm.add(config, "b", peers, PlainLearner([3.0, 4.0]))
        node = swarm.add(config, "a", peers, PlainLearner([1.0, 2.0]), store)
        await swarm.start()
        store.full = True
        swarm.launch("a")
        await asyncio.sleep(60.0)
        assert (node.state, node.status().checkpoint_error != "") == ("finished", True)
        store.full = False
        await asyncio.sleep(11.0)
        assert (node.status().checkpoint_error, len(store.saved)) == ("", 1)
        await asyncio.sleep(300.0)
        assert len(store.saved) == 1, "nothing came, so nothing is written"
        frame = b.passive.frame({"x": np.array([3.0, 4.0])}, Purpose.MODEL, 4)
        receipt = await swarm.carry("b", "a", frame.tobytes())
        assert receipt.reply is not None
        assert receipt.reply.status == "merged"
        await asyncio.sleep(31.0)
        assert len(store.saved) == 2
        np.testing.assert_array_equal(store.saved[-1].arrays["params"], node.params)
        node.request_stop()
        await swarm.tasks["a"]
        assert len(store.saved) == 2

    virtual_time.run(main())


def test_a_push_that_is_in_the_checkpoint_is_not_merged_by_the_next_life() -> None:
    async def main() -> None:
        config = plain_config(algorithm__name="gossip", training__local_steps=0)
        store, peers = ListStore(), entries(["a", "b"])
        swarm = MemorySwarm()
        swarm.add(config, "b", peers, PlainLearner([8.0]))
        swarm.add(config, "a", peers, PlainLearner([0.0]), store)
        await swarm.start()
        frame = swarm.nodes["b"].passive.frame({"x": np.array([8.0])}, "model", 4).tobytes()  # type: ignore[arg-type]
        first = await swarm.carry("b", "a", frame)
        await swarm.nodes["a"].stop()
        swarm.add(config, "a", peers, PlainLearner([0.0]), store)
        await swarm.nodes["a"].start()
        before = swarm.nodes["a"].params
        again = await swarm.carry("b", "a", frame)
        assert first.reply is not None
        assert again.reply is not None
        assert (first.reply.status, again.reply.status) == ("merged", "duplicate")
        assert swarm.nodes["a"].params is before

    virtual_time.run(main())


def test_a_failed_node_does_not_overwrite_its_last_sound_checkpoint() -> None:
    async def main() -> None:
        store = ListStore()
        swarm = one(plain_config(), store, PlainLearner([1.0, 2.0], np.inf))
        await swarm.start()
        with pytest.raises(Exception, match="diverged"):
            await swarm.launch("a")
        await swarm.nodes["a"].stop()
        assert swarm.nodes["a"].state == "failed"
        assert store.saved == []

    virtual_time.run(main())


def test_a_new_life_of_gossip_does_not_repeat_the_choices_of_the_last() -> None:
    async def main() -> None:
        names = [f"n{i:02d}" for i in range(30)]
        config = plain_config(algorithm__name="gossip", training__local_steps=0)
        store, chosen = ListStore(), []
        for _ in range(2):
            swarm = MemorySwarm()
            swarm.add(config, "n00", entries(names), PlainLearner([0.0]), store)
            await swarm.start()
            chosen.append([swarm.nodes["n00"].sample_peer() for _ in range(20)])
            await swarm.nodes["n00"].stop()
        assert chosen[0] != chosen[1]

    virtual_time.run(main())
