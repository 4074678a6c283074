"""A modelled network: latency, jitter, shared up- and downlinks, loss, duplicates, cut wires.

A push of B bytes from i to j leaves when i's uplink is free and takes B/bandwidth on it, crosses
the wire in latency + jitter, and takes B/bandwidth on j's downlink when that is free. Pushes
between the same two nodes may overtake one another by their jitter. Answers without a model are
so short that they slip in between. What was sent off is on the line, as in the buffers of a real
one, although its sender may give up on it or die.

Invariant: each kind of chance has a random stream of its own, so that switching one fault on
changes nothing about the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np

STREAMS = ("latency", "loss", "duplicate")


@dataclass(frozen=True, slots=True)
class Link:
    """What the wires are like. Times in seconds, bandwidth in bytes a second, chances in [0, 1].

    ``jitter_s`` is the largest extra delay, drawn uniformly. ``up_bytes_s`` and ``down_bytes_s``
    are of a node's whole line; 0 means without limit. ``loss`` loses a push on its way there,
    ``reply_loss`` its answer, after it was merged; ``duplicate`` delivers it a second time.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    up_bytes_s: float = 0.0
    down_bytes_s: float = 0.0
    loss: float = 0.0
    reply_loss: float = 0.0
    duplicate: float = 0.0


class Passage(NamedTuple):
    """What becomes of bytes on their way: they take ``seconds``, and then are there or lost."""

    seconds: float
    is_lost: bool = False


CUT = Passage(inf)


class ModelledNetwork:
    """All wires of one swarm. Nodes are known by name."""

    def __init__(self, link: Link, seed: int) -> None:
        self.link = link
        self.fired: Counter[str] = Counter()  # faults that happened, by kind
        self._own: dict[tuple[str, str], Link] = {}
        self._cut: list[tuple[frozenset[str], frozenset[str]]] = []
        self._up_free: dict[str, float] = {}
        self._down_free: dict[str, float] = {}
        self._rng = {
            name: np.random.default_rng([seed, number]) for number, name in enumerate(STREAMS)
        }

    def _link(self, sender: str, receiver: str) -> Link:
        return self._own.get((sender, receiver), self.link) if self._own else self.link

    def set_link(self, sender: str, receiver: str, link: Link) -> None:
        """Give one direction of one wire a nature of its own."""
        self._own[sender, receiver] = link

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Let everything from ``senders`` to ``receivers`` vanish, in that direction."""
        self._cut.append((frozenset(senders), frozenset(receivers)))

    def heal(self) -> None:
        """Mend every wire."""
        self._cut.clear()

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether nothing gets through in that direction."""
        return any(sender in here and receiver in there for here, there in self._cut)

    def send(self, sender: str, receiver: str, nbytes: int) -> Passage:
        """Send ``nbytes`` off: when they are at the receiver's line, and whether at all."""
        link = self._own.get((sender, receiver), self.link) if self._own else self.link
        seconds = self._seconds(link, sender, nbytes)
        if self._cut and self.is_cut(sender, receiver):
            self.fired["cut"] += 1
            return CUT
        if link.loss and self._rng["loss"].random() < link.loss:
            self.fired["loss"] += 1
            return Passage(seconds, is_lost=True)
        return Passage(seconds)

    def answer(self, sender: str, receiver: str, nbytes: int) -> Passage:
        """Send an answer of ``nbytes`` off. A short one, without a model, waits for no line.

        The connection is the push's: it is lost with it, or by ``loses_reply``.
        """
        link = self._own.get((sender, receiver), self.link) if self._own else self.link
        if self._cut and self.is_cut(sender, receiver):
            self.fired["cut"] += 1
            return CUT
        return Passage(self._seconds(link, sender, nbytes))

    def loses_reply(self, sender: str, receiver: str) -> bool:
        """Draw whether the answer to a delivered push is lost."""
        link = self._own.get((sender, receiver), self.link) if self._own else self.link
        if not link.reply_loss or self._rng["loss"].random() >= link.reply_loss:
            return False
        self.fired["reply_loss"] += 1
        return True

    def duplicates(self, sender: str, receiver: str) -> bool:
        """Draw whether a delivered push comes a second time."""
        link = self._own.get((sender, receiver), self.link) if self._own else self.link
        if not link.duplicate or self._rng["duplicate"].random() >= link.duplicate:
            return False
        self.fired["duplicate"] += 1
        return True

    def receive(self, sender: str, receiver: str, nbytes: int) -> float:
        """Take in ``nbytes`` that are at ``receiver``'s line now: return how long that takes."""
        link = self._own.get((sender, receiver), self.link) if self._own else self.link
        if not nbytes or not link.down_bytes_s:
            return 0.0
        return _occupy(self._down_free, receiver, nbytes / link.down_bytes_s)

    def _seconds(self, link: Link, sender: str, nbytes: int) -> float:
        """Return how long ``nbytes`` take to the other's line, and occupy the uplink."""
        seconds = link.latency_s
        if link.jitter_s:
            seconds += link.jitter_s * self._rng["latency"].random()
        if nbytes and link.up_bytes_s:
            seconds += _occupy(self._up_free, sender, nbytes / link.up_bytes_s)
        return seconds


def _occupy(free: dict[str, float], node: str, seconds: float) -> float:
    """Occupy a node's line for ``seconds`` once it is free; return when that is over, from now."""
    now = asyncio.get_running_loop().time()
    free[node] = max(now, free.get(node, 0.0)) + seconds
    return free[node] - now
