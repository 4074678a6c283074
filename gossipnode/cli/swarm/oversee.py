"""The parent while its nodes learn: reads their reports, notices deaths, obeys signals.

Invariant: it polls nothing at a high rate (the nodes need the cores) and ends as soon as every
node has finished or died, or the user has had enough.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gossipnode.cli.results.history import History
from gossipnode.cli.swarm.family import Child, Family
from gossipnode.cli.swarm.models import distance_now
from gossipnode.learning.params import Layout
from gossipnode.network import HttpClient

# Fetching all models once a second to show their distance costs the nodes a copy each: at most
# this many bytes, some 5 ms of one core.
DISTANCE_BYTES_MAX = 16 * 2**20
DISTANCE_EVERY_S = 1.0
PIPE_BYTES = 65536
# A node that has failed is over once its process is: its exit code tells why.
OVER = ("finished", "draining", "stopped")


@dataclass(slots=True)
class View:
    """What the parent knows of one node: its process, its state and its newest row.

    ``bytes_sent`` and ``round_s``, the median duration of its last rounds, are those of its last
    report, whether of a state or of a row; ``bytes_saved`` that of its last state.
    """

    child: Child
    state: str = "starting"
    row: dict[str, Any] | None = None
    was_ready: bool = False
    bytes_sent: int = 0
    bytes_saved: int = 0
    round_s: float | None = None

    def take(self, report: dict[str, Any]) -> None:
        """Take in what the node reported, other than a measurement."""
        if "error" in report:
            self.child.error = report["error"]
            return
        self.state = report["state"]
        self.was_ready |= self.state == "ready"
        self._note(report)

    def measured(self, row: dict[str, Any]) -> None:
        """Take in a row."""
        self.row = row
        self._note(row)

    def _note(self, facts: dict[str, Any]) -> None:
        self.bytes_sent, self.round_s = facts["bytes_sent"], facts["round_s"]
        self.bytes_saved = facts.get("bytes_saved", self.bytes_saved)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected of it."""
        return not self.child.alive or self.state in OVER


class Overseer:
    """Watches a family. ``show`` is called with it every ``interval_s``, ``died`` with the dead.

    ``history`` gets every row as a JSON line, with the node's id; where it cannot be written, the
    run is interrupted, and its ``failure`` tells why. ``distances`` holds (round, consensus
    distance) as sampled on the way: all models of about the same moment.
    """

    def __init__(
        self,
        family: Family,
        history: History,
        *,
        show: Callable[[Overseer], None],
        died: Callable[[Child], None],
        interval_s: float,
    ) -> None:
        self.family = family
        self.views = [View(child) for child in family.children]
        self.distances: list[tuple[int, float]] = []
        self.all_ready_at: float | None = None
        self.interrupted = False
        self.history, self._show, self._died = history, show, died
        self._interval_s = interval_s
        self._rest = b""
        self._over = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The newest rows of the nodes that live, or of all where none does."""
        of = [view for view in self.views if view.child.alive] or self.views
        return [view.row for view in of if view.row is not None]

    @property
    def round(self) -> int:
        """The round that every node that lives has measured."""
        return min((row["round"] for row in self.rows), default=0)

    def attach(self) -> None:
        """Begin to listen, in the running loop."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self.family.reports, False)
        loop.add_reader(self.family.reports, self._read)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._reap()  # somebody may have died before we listened

    async def watch(self, client: HttpClient, layout: Layout) -> None:
        """Return when every node is over, or on the first signal."""
        affordable = len(self.views) * layout.nbytes <= DISTANCE_BYTES_MAX
        measured_at = time.monotonic()
        while not await self._over_within(self._interval_s):
            if affordable and time.monotonic() - measured_at >= DISTANCE_EVERY_S:
                addresses = [v.child.address for v in self.views if v.was_ready and not v.over]
                distance = await distance_now(client, addresses, layout)
                self.note_distance(self.round, distance)
                measured_at = time.monotonic()
            self._show(self)

    def note_distance(self, round_: int, distance: float | None) -> None:
        """Keep a consensus distance; None, for want of models, is none."""
        if distance is not None:
            self.distances.append((round_, distance))

    async def stop(self, deadline_s: float) -> None:
        """Ask the children to end; kill whoever has not after ``deadline_s``."""
        self.family.ask_to_stop()
        self._check()
        try:
            async with asyncio.timeout(deadline_s):
                await self._ended.wait()
        except TimeoutError:
            self.family.kill()

    async def _over_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True

    def _read(self) -> None:
        try:
            data = os.read(self.family.reports, PIPE_BYTES)
        except BlockingIOError:
            return  # somebody else has read it
        if not data:  # all children have ended
            asyncio.get_running_loop().remove_reader(self.family.reports)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            view = self.views[report.pop("node")]
            if "row" in report:
                view.measured(report["row"])
                if not self.history.keep({"node": view.child.id, **report["row"]}):
                    self.interrupted = True
                    self._over.set()
            else:
                view.take(report)
        self._check()

    def _reap(self) -> None:
        ended = self.family.reap()
        if ended:
            self._read()  # its last words came before its end
        for child in ended:
            if child.failure and not self.interrupted:
                self._died(child)
        self._check()

    def _check(self) -> None:
        if self.all_ready_at is None and all(v.was_ready or not v.child.alive for v in self.views):
            self.all_ready_at = time.monotonic()
        if all(view.over for view in self.views):
            self._over.set()
        if not any(child.alive for child in self.family.children):
            self._ended.set()

    def _asked_to_stop(self) -> None:
        if self.interrupted:
            # The second time: at once. Leaving the family's context kills whoever is left.
            raise KeyboardInterrupt
        self.interrupted = True
        self._over.set()
