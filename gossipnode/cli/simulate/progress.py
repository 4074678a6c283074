"""What people see while a simulation runs: how far virtual time is, and what has been learnt.

Invariant: it writes to standard error alone, and costs a line a second of real time at most.
"""

from __future__ import annotations

import sys
import time

from gossipnode.cli.app import say
from gossipnode.cli.simulate.plan import Seen

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

    def show(self, seen: Seen) -> None:
        """Write a line if it is time for one."""
        if time.monotonic() >= self._due:
            self._write(seen)
            self._due = time.monotonic() + self._interval_s

    def close(self, seen: Seen) -> None:
        """Write how it ended."""
        self._write(seen)
        if self._in_place:
            say()

    def _write(self, seen: Seen) -> None:
        line = self._label + seen.line()
        if line != self._last:
            self._last = line
            say(f"{ERASE}{line}" if self._in_place else line, nl=not self._in_place)
