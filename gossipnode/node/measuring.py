"""Measurements on the way, and the events that tell of them.

Invariant: measuring reads a snapshot and changes nothing; who listens slowly misses events and
holds up nobody.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from gossipnode.node.history import History

if TYPE_CHECKING:
    from gossipnode.node.node import Node

EVENTS_WAITING_MAX = 64


class Measurements:
    """The history of one node, and its subscribers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._history = History(node.config.run.history_max)
        self._subscribers: set[asyncio.Queue[dict[str, Any]]] = set()

    async def measure(self) -> None:
        """Measure loss and accuracy on the test samples, and add a row."""
        node = self.node
        params, round_, age = node.params, node.round, node.age
        found = await node.world.work(node.learner.evaluate, params)
        training = node.last_training
        row = {
            "round": round_,
            "age": age,
            "time_s": round(node.time() - node.run_began, 6),
            "loss": finite_or_none(found.loss),
            "accuracy": found.accuracy,
            "train_loss": finite_or_none(training.loss) if training else None,
            "bytes_sent": node.counters.get("bytes_sent"),
            "bytes_received": node.counters.get("bytes_received"),
            "peers": node.peers.alive,
            "round_s": median(node.round_times),
        }
        self._history.add(row)
        self.publish({"event": "measured", **row})
        if node.on_measurement is not None:
            node.on_measurement(row)

    @property
    def last(self) -> dict[str, Any] | None:
        """The newest row."""
        return self._history.last

    def rows(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the rows of rounds ≥ ``since``."""
        return self._history.rows(since)

    def subscribe(self) -> asyncio.Queue[dict[str, Any]]:
        """Return a bounded queue of events."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=EVENTS_WAITING_MAX)
        self._subscribers.add(queue)
        return queue

    def unsubscribe(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Stop the events of one subscriber."""
        self._subscribers.discard(queue)

    def publish(self, event: dict[str, Any]) -> None:
        """Tell every subscriber that has room."""
        for queue in self._subscribers:
            if not queue.full():
                queue.put_nowait(event)


def median(values: Collection[float]) -> float | None:
    """Return the median, None of nothing.

    The statistics module would cost half a megabyte; numpy's, which imports masked arrays, 1.1 and
    10 ms of the loop, at the first status.
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return round((ordered[middle] + ordered[~middle]) / 2, 6) if ordered else None


def finite_or_none(value: float) -> float | None:
    """JSON has no infinity: a loss that overflowed is told as null."""
    return value if math.isfinite(value) else None
