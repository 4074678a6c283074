"""The nodes of a swarm as forked children: launched once, told to stop, never left behind.

Invariant: a child ends when its parent does, however that ends; and the parent signals only
pids that it has forked and not yet reaped. Nothing here runs an event loop: the fork must
happen before there is one, since threads and loops do not survive it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossipnode.cli.app import EXIT_CODES
from gossipnode.cli.swarm.child import be_node, import_what_nodes_do
from gossipnode.cli.swarm.seats import Seat
from gossipnode.config import Config
from gossipnode.errors import ConfigError

# All peers may dial before a child accepts for the first time.
BACKLOG = 512


@dataclass(slots=True)
class Child:
    """One node's process. ``status`` is what ``waitpid`` told, None while it lives.

    ``address`` is that of its pages, ``error`` what it said of its end, if anything.
    """

    id: str
    pid: int
    address: str
    log: Path
    status: int | None = None
    error: str = ""
    asked_to_stop: bool = False

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped."""
        return self.status is None

    @property
    def failure(self) -> str:
        """How it died; empty while it lives and after a clean end that was asked for."""
        if self.status is None:
            return ""
        code = os.waitstatus_to_exitcode(self.status)
        if code < 0:
            if self.asked_to_stop:
                return ""  # it had not come far enough to handle our signal
            return f"killed by {signal.Signals(-code).name}"
        if code == 0:
            return "" if self.asked_to_stop else "ended early"
        how = self.error or EXIT_CODES.get(code, "unknown")
        return f"exit code {code} ({how}); see {self.log}"

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it lives or when a signal killed it."""
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        return None if code is None or code < 0 else code


class Family:
    """All children. ``reports`` is the pipe on which they write JSON lines of at most 4096 bytes.

    Use it as a context: leaving it kills and reaps whoever is left.
    """

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.reports = -1
        self._lifeline = -1

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for descriptor in (self.reports, self._lifeline):
            if descriptor >= 0:
                os.close(descriptor)

    def launch(self, configs: Sequence[Config], seats: Sequence[Seat], out: Path) -> None:
        """Fork a node for each config. The sockets of ``seats`` are closed here.

        Each child's output goes to a log of its own in the folder ``out``.
        """
        self.reports, write_report = os.pipe()
        # Nobody ever writes to the lifeline: its end of file tells that the parent is gone.
        hold, self._lifeline = os.pipe()
        peers = tuple(seat.entry for seat in seats)
        sys.stdout.flush()
        sys.stderr.flush()
        import_what_nodes_do()  # once, and in memory that all share
        # What exists now lives as long as the children: keep the collector from writing to its
        # pages, which would give every child a copy of its own.
        gc.collect()
        gc.freeze()
        digits = max(2, len(str(len(configs) - 1)))
        try:
            for index, config in enumerate(configs):
                log = out / f"node-{index:0{digits}}.log"
                pid = _fork(index)
                if pid == 0:
                    for other in seats[index + 1 :]:
                        other.close()
                    os.close(self.reports)
                    os.close(self._lifeline)
                    be_node(index, config, peers, seats[index], log, write_report, hold)
                # At once: a listener that the parent kept would answer for a child that died.
                seats[index].close()
                self.children.append(Child(seats[index].name, pid, seats[index].pages, log))
        finally:
            for seat in seats:
                seat.close()
            os.close(write_report)
            os.close(hold)

    def reap(self) -> list[Child]:
        """Collect the children that have ended since the last time, and return them."""
        ended = []
        for child in self.children:
            if child.alive:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.status = status
                    ended.append(child)
        return ended

    def ask_to_stop(self) -> None:
        """Send SIGTERM to everybody who lives and was not asked before."""
        for child in self.children:
            if child.alive and not child.asked_to_stop:
                child.asked_to_stop = True
                os.kill(child.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill and reap everybody who lives; harmless twice."""
        for child in self.children:
            if child.alive:
                child.asked_to_stop = True
                os.kill(child.pid, signal.SIGKILL)
        for child in self.children:
            if child.alive:
                child.status = os.waitpid(child.pid, 0)[1]


def listen(nodes: int) -> list[socket.socket]:
    """Return a listening socket a node, on a free port of loopback each; raises ``ConfigError``."""
    listeners: list[socket.socket] = []
    try:
        for _ in range(nodes):
            listeners.append(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))  # noqa: PERF401
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise _too_many(len(listeners), error) from None
    return listeners


def _fork(index: int) -> int:
    try:
        return os.fork()
    except OSError as error:
        raise _too_many(index, error) from None


def _too_many(possible: int, error: OSError) -> ConfigError:
    return ConfigError(
        f"the system lets us have {possible} nodes only: {error.strerror}; see ulimit -n and -u",
        key="--nodes",
    )
