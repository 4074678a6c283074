"""What is seen of a simulated swarm while it runs: rows, distances, the way to a target.

Invariant: looking changes nothing. It happens inside the nodes' own measurements and sets no
timer, so that a run is the same whoever watches.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from gossipnode.cli.columns import count
from gossipnode.cli.results import progress_words
from gossipnode.cli.results.history import History
from gossipnode.cli.results.spread import Spread
from gossipnode.cli.simulate.plan import Show
from gossipnode.node.node import Node
from gossipnode.simulation import SimulatedSwarm


class Recorder:
    """Watches ``swarm``. ``show`` is called with it after each measurement.

    ``history`` gets every row as a JSON line, with the node's id and the virtual time.
    ``distances`` holds (round, consensus distance) of the moments at which the slowest node
    measured a new round. ``reached_s`` is when the mean of the nodes' newest accuracies first
    was ``target``. ``finished`` are the nodes that have once used up their rounds; with the last of
    them, ``over`` is set. Where ``history`` cannot be written, the run is over too.
    """

    def __init__(
        self,
        swarm: SimulatedSwarm,
        history: History,
        target: float | None,
        show: Show,
    ) -> None:
        self.swarm, self.target = swarm, target
        self.rows: dict[str, dict[str, Any]] = {}
        self.distances: list[tuple[int, float]] = []
        self.reached_s: float | None = None
        self.finished: set[str] = set()
        self.over = asyncio.Event()
        self.round = 0
        self.history, self._show = history, show
        self._at: Counter[int] = Counter()  # nodes by the round that they measured last
        self._accuracies = 0.0

    def watch(self, node: Node) -> None:
        """Take in all that ``node`` measures from now on."""
        node.on_measurement = partial(self._measured, node.id)

    def line(self) -> str:
        """Return how far virtual time is, and what has been learnt."""
        swarm, distance = self.swarm, self.distances[-1][1] if self.distances else None
        rounds = swarm.config.run.rounds
        words = progress_words(self.round, rounds, self.rows.values(), distance)
        up, nodes = len(swarm.names) - len(swarm.down), len(swarm.names)
        words.append(f"{up} of {nodes} nodes" if swarm.down else count(nodes, "node"))
        return f"{swarm.time:10.1f} s  {'  '.join(words)}"

    def _measured(self, name: str, row: dict[str, Any]) -> None:
        swarm = self.swarm
        if not self.history.keep({"node": name, "virtual_s": round(swarm.time, 6), **row}):
            # Raised here, its failure would be taken for that of each node that measures.
            self.over.set()
            for node in swarm.up:
                node.request_stop()
        before = self.rows.get(name)
        self.rows[name] = row
        self._accuracies += (row["accuracy"] or 0.0) - ((before or {}).get("accuracy") or 0.0)
        if swarm.config.run.rounds and row["round"] >= swarm.config.run.rounds:
            self.finished.add(name)
            if len(self.finished) == len(swarm.names):
                self.over.set()
        self._advance(before["round"] if before else None, row["round"])
        if self.reached_s is None and self._reaches_target:
            self.reached_s = round(swarm.time, 6)
        self._show(self)

    @property
    def _reaches_target(self) -> bool:
        if self.target is None or not self._is_whole:
            return False
        return self._accuracies / len(self.rows) >= self.target

    @property
    def _is_whole(self) -> bool:
        return len(self.rows) == len(self.swarm.names)

    def _advance(self, before: int | None, now: int) -> None:
        self._at[now] += 1
        if before is not None:
            self._at[before] -= 1
            if not self._at[before]:
                del self._at[before]
        least = min(self._at)
        if self._is_whole and least > self.round:
            self.round = least
            spread = Spread()
            for node in self.swarm.up:
                spread.add(node.params)
            if spread.distance is not None:
                self.distances.append((least, spread.distance))
