"""What people see while a simulation runs: how far virtual time is, and what has been learnt.

Invariant: it writes to standard error alone, and costs a line a second of real time at most.
"""

from __future__ import annotations

import sys
import time

import click

from gossipnode.cli.columns import count
from gossipnode.cli.results import progress_words
from gossipnode.cli.simulate.recorder import Recorder

LINE_EVERY_S = 1.0
REDRAW_S = 0.2
ERASE = "\r\x1b[K"


class Progress:
    """A line now and then; in a terminal, one line that is written anew.

    ``label`` stands before each line where several runs write at once.
    """

    def __init__(self, label: str = "") -> None:
        self._label = label
        self._in_place = sys.stderr.isatty() and not label
        self._interval_s = REDRAW_S if self._in_place else LINE_EVERY_S
        self._due = time.monotonic() + self._interval_s
        self._last = ""

    def show(self, recorder: Recorder) -> None:
        """Write a line if it is time for one."""
        if time.monotonic() >= self._due:
            self._write(recorder)
            self._due = time.monotonic() + self._interval_s

    def close(self, recorder: Recorder) -> None:
        """Write how it ended."""
        self._write(recorder)
        if self._in_place:
            click.echo(err=True)

    def _write(self, recorder: Recorder) -> None:
        swarm = recorder.swarm
        distance = recorder.distances[-1][1] if recorder.distances else None
        rounds = swarm.config.run.rounds
        words = progress_words(recorder.round, rounds, recorder.rows.values(), distance)
        up, nodes = len(swarm.names) - len(swarm.down), len(swarm.names)
        words.append(f"{up} of {nodes} nodes" if swarm.down else count(nodes, "node"))
        line = f"{self._label}{swarm.time:10.1f} s  {'  '.join(words)}"
        if line != self._last:
            self._last = line
            click.echo(
                f"{ERASE}{line}" if self._in_place else line, err=True, nl=not self._in_place
            )
