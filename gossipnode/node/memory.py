"""What a node takes along from one life to the next.

Invariant: a checkpoint is consistent: params, optimizer and data position are of the same moment
between two rounds, and the ledger knows every push that is in those params, so that none is
merged twice. ``durable_age`` moves only after the disk has said so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gossipnode.config import PeerEntry
from gossipnode.errors import StorageError
from gossipnode.logs import event
from gossipnode.node.world import Snapshot

if TYPE_CHECKING:
    from gossipnode.node.node import Node

log = logging.getLogger("gossipnode.node")

# After a write that failed, unless checkpoints come more often anyway: a disk that has room again
# is found soon, and one that has not costs a file name each time.
RETRY_S = 10.0


class Memory:
    """Saves and recalls the state of one node through its world's store, if it has one."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.on_snapshot: Callable[[], None] | None = None  # told of the moment that is kept
        self.recalled = False  # whether this life goes on from a checkpoint
        self._kept_at = 0.0
        self._had = 0  # pushes that were received when a snapshot was taken last
        self._writing: asyncio.Task[None] | None = None

    async def recall(self) -> None:
        """Begin a new epoch, in the state of the newest checkpoint where there is one."""
        node, store = self.node, self.node.world.store
        self._kept_at = node.time()
        if store is None:
            node.epoch = int(node.world.wall_time() * 1000)
            return
        node.epoch = await node.world.work(store.next_epoch)
        if node.membership is not None and node.membership.book is not None:
            await node.membership.book.recall()
        if node.config.checkpoint.fresh:
            return
        snapshot = await node.world.work(store.load)
        node.counters.add("checkpoints_damaged", len(store.skipped))
        if snapshot is not None:
            self._restore(snapshot)
            self.recalled = True

    def keep_if_due(self) -> None:
        """Write a checkpoint in the background if the last one is old; call between rounds."""
        every_s = self.node.config.checkpoint.every_s
        if self.node.checkpoint_error:
            every_s = min(every_s, RETRY_S)
        if (
            self.node.world.store is not None
            and every_s
            and self.node.time() - self._kept_at >= every_s
            and (self._writing is None or self._writing.done())
        ):
            self._kept_at = self.node.time()
            self._writing = self.node.tasks.create_task(self._keep(self._snapshot()))

    def keep_news_if_due(self) -> None:
        """The same for a node that has ended its rounds: only where something came, or failed."""
        if self.node.checkpoint_error or self._received != self._had:
            self.keep_if_due()

    @property
    def look_every_s(self) -> float | None:
        """How often such a node is to look; None: never."""
        every_s = self.node.config.checkpoint.every_s
        return min(every_s, RETRY_S) if every_s and self.node.world.store is not None else None

    @property
    def _received(self) -> int:
        return self.node.counters.get("pushes_received")

    async def keep(self) -> None:
        """Wait for the write under way, then write a checkpoint of this moment."""
        await self.settle()
        if self.node.world.store is not None:
            await self._keep(self._snapshot())

    async def settle(self) -> None:
        """Wait for the write under way, if there is one."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _keep(self, snapshot: Snapshot) -> None:
        node = self.node
        assert node.world.store is not None
        try:
            await node.world.work(node.world.store.save, snapshot)
        except StorageError as error:
            # The model in memory is sound and the peers hold it too: go on, and say so loudly.
            node.counters.add("checkpoint_failures")
            node.checkpoint_error = str(error)
            event(log, logging.ERROR, "checkpoint.failed", reason=str(error))
            return
        node.counters.add("checkpoints_written")
        if node.checkpoint_error:
            event(log, logging.INFO, "checkpoint.recovered", age=snapshot.facts["age"])
        node.durable_age, node.checkpoint_error = snapshot.facts["age"], ""
        event(log, logging.DEBUG, "checkpoint.written", age=node.durable_age)

    def _snapshot(self) -> Snapshot:
        node, self._had = self.node, self._received
        if self.on_snapshot is not None:
            self.on_snapshot()
        arrays, learner = node.learner.state()
        # Training goes on while this is written: the optimizer's arrays must not move under it.
        arrays = {f"learner/{name}": array.copy() for name, array in arrays.items()}
        own, facts = node.algorithm.state()
        arrays |= {f"algorithm/{name}": array.copy() for name, array in own.items()}
        return Snapshot(
            {"params": node.params, **arrays},
            {
                "node": node.id,
                "swarm": node.config.swarm.name,
                "schema": node.layout.schema,
                "algorithm": node.algorithm.name,
                "round": node.round,
                "age": node.age,
                "epoch": node.epoch,
                "seq": node.seq,
                "learner": learner,
                "algorithm_state": facts,
                "rng": node.rng.bit_generator.state,
                "sampler_rng": node.sampler_rng.bit_generator.state,
                "ledger": node.inbox.state(),
                "peers": [{"id": p.id, "address": p.address} for p in node.peers.learnt],
            },
        )

    def _restore(self, snapshot: Snapshot) -> None:
        node, facts = self.node, snapshot.facts
        for name, here in (
            ("swarm", node.config.swarm.name),
            ("node", node.id),
            ("schema", node.layout.schema),
        ):
            if facts[name] != here:
                raise StorageError(
                    f"the checkpoint is of {name} {facts[name]}, this node's is {here}; give it "
                    "another --data-dir, or start with --fresh to begin anew"
                )
        if facts["algorithm"] == node.algorithm.name:
            node.algorithm.restore(_under("algorithm/", snapshot), facts.get("algorithm_state", {}))
        else:
            was = facts["algorithm"]
            event(
                log, logging.WARNING, "checkpoint.other_algorithm", was=was, now=node.algorithm.name
            )
        params = np.array(snapshot.arrays["params"], dtype=node.layout.dtype)
        node.layout.check(params)
        node.restore_params(params, facts["age"])
        node.round, node.durable_age = facts["round"], facts["age"]
        node.learner.restore(_under("learner/", snapshot), facts["learner"])
        node.rng.bit_generator.state = facts["rng"]
        node.sampler_rng.bit_generator.state = facts["sampler_rng"]
        node.inbox.restore(facts["ledger"])
        self._restore_peers(facts["peers"])
        event(log, logging.INFO, "checkpoint.loaded", round=node.round, age=node.age)

    def _restore_peers(self, peers: list[dict[str, Any]]) -> None:
        """Take in whom gossip has met. They stay unknown: after a power cut all start anew."""
        if not self.node.algorithm.needs_graph:
            rows = [PeerEntry.model_construct(id=p["id"], address=p["address"]) for p in peers]
            self.node.meet(rows)


def _under(prefix: str, snapshot: Snapshot) -> dict[str, Any]:
    """Return the arrays whose name begins with ``prefix``, by the rest of it."""
    return {k.removeprefix(prefix): a for k, a in snapshot.arrays.items() if k.startswith(prefix)}
