"""What people see while a swarm learns: a table in a terminal, a line a second elsewhere.

Invariant: it writes to standard error alone, so that standard output is the result and nothing
else; and it costs the nodes no more than a few redraws a second.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from gossipnode.cli import LAUNCHED
from gossipnode.cli.app import say
from gossipnode.cli.columns import columns, count, decimal, quantity
from gossipnode.cli.results import progress_words
from gossipnode.cli.swarm.family import Child
from gossipnode.cli.swarm.oversee import Overseer, View

REDRAW_S = 0.25
LINE_EVERY_S = 1.0
# More rows than these do not fit a terminal: least, mean and greatest are shown instead.
ROWS_MAX = 16


class Lines:
    """A plain line now and then: how far, how good, how far apart."""

    interval_s = LINE_EVERY_S

    def __init__(self, title: str, rounds: int) -> None:
        self._rounds = rounds
        self._last = ""
        say(title)

    def show(self, overseer: Overseer) -> None:
        """Write a line if anything has changed."""
        line = _summary_line(overseer, self._rounds)
        if line != self._last:
            self._last = line
            say(f"{time.monotonic() - LAUNCHED:6.1f} s  {line}")

    def died(self, child: Child) -> None:
        """Tell at once that a node has died."""
        say(f"node {child.id} died: {child.failure}")

    def close(self) -> None:
        """Nothing to restore."""


class Table:
    """A table that is redrawn in place."""

    interval_s = REDRAW_S

    def __init__(self, title: str, rounds: int) -> None:
        # Here, not above: without a terminal nobody pays for rich.
        from rich.console import Console
        from rich.live import Live

        self._title, self._rounds = title, rounds
        # No refresh thread: the loop calls `show`.
        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._live.start()

    def show(self, overseer: Overseer) -> None:
        """Redraw."""
        from rich.text import Text

        lines = [self._title, _summary_line(overseer, self._rounds), *_rows(overseer)]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def died(self, child: Child) -> None:
        """Tell at once, above the table, that a node has died."""
        from rich.text import Text

        self._live.console.print(Text(f"node {child.id} died: {child.failure}"))

    def close(self) -> None:
        """Leave the last table standing."""
        self._live.stop()


def progress(title: str, rounds: int) -> Lines | Table:
    """Return what fits standard error."""
    return Table(title, rounds) if sys.stderr.isatty() else Lines(title, rounds)


def _summary_line(overseer: Overseer, rounds: int) -> str:
    views = overseer.views
    rows = overseer.rows
    alive = sum(view.child.alive for view in views)
    if not rows:
        ready = sum(view.was_ready for view in views)
        return f"starting: {ready} of {count(len(views), 'node')} ready"
    distance = overseer.distances[-1][1] if overseer.distances else None
    words = progress_words(overseer.round, rounds, rows, distance)
    words.append(f"{alive} of {len(views)} nodes" if alive < len(views) else count(alive, "node"))
    return "  ".join(words)


def _rows(overseer: Overseer) -> list[str]:
    views = overseer.views
    head = ["node", "state", "round", "loss", "accuracy", "sent", "peers"]
    if len(views) <= ROWS_MAX:
        return columns(head, [_cells(view) for view in views])
    counts = {state: 0 for view in views if (state := _state(view))}
    for view in views:
        counts[_state(view)] += 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    table = []
    for name, choose in (("least", min), ("mean", statistics.fmean), ("greatest", max)):
        cells: list[str] = [name, ""]
        for key in ("round", "loss", "accuracy", "bytes_sent", "peers"):
            values = _values(overseer.rows, key)
            cells.append(_cell(key, choose(values)) if values else "")
        table.append(cells)
    return [states, *columns(head, table)]


def _cells(view: View) -> list[str]:
    row = view.row or {}
    keys = ("round", "loss", "accuracy", "bytes_sent", "peers")
    return [view.child.id, _state(view), *(_cell(key, row.get(key)) for key in keys)]


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key == "bytes_sent":
        return quantity(value, "B")
    return decimal(value) if key in ("loss", "accuracy") else f"{value:.0f}"


def _state(view: View) -> str:
    return view.state if view.child.alive else "dead"


def _values(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]
