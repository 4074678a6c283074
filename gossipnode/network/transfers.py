"""How far long bodies are, for people who wait for them.

Invariant: nothing is measured for it on the way but when a body began; looking computes the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from gossipnode.node.status import TransferStatus

# Shorter bodies are there before anybody looks: 8 MiB take 0.7 s at 100 Mbit/s.
SHOWN_BYTES_MIN = 2**23


class Progress(NamedTuple):
    """A body under way: bytes that are over, all of them, those of an earlier lane, its begin."""

    done: int
    total: int
    began_with: int
    began_at: float

    def status(
        self, peer: str, direction: Literal["to", "from"], now: float
    ) -> list[TransferStatus]:
        """Return what to show of it at ``now``, in the seconds of ``began_at``: one or none."""
        if self.total < SHOWN_BYTES_MIN:
            return []
        elapsed_s = now - self.began_at
        rate = (self.done - self.began_with) / elapsed_s if elapsed_s > 0 else 0.0
        return [TransferStatus(peer, direction, self.done, self.total, round(rate, 1))]

    def words(self) -> str:
        """Return how far it was when its time was over, and what to do; empty for short ones."""
        if self.total < SHOWN_BYTES_MIN:
            return ""
        return (
            f" with {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB sent; if the line is slow, "
            "raise network.push_timeout_s here and network.body_timeout_s there"
        )


class _Posted(NamedTuple):
    """A body on its way: to or from whom, since when, all its bytes, and those that are over."""

    peer: str
    direction: Literal["to", "from"]
    began_at: float
    total: int
    done: Callable[[], int]


class Transfers:
    """The long bodies under way that no lane carries."""

    def __init__(self) -> None:
        self._posted: list[_Posted] = []

    @contextmanager
    def shown(
        self, peer: str, direction: Literal["to", "from"], total: int, done: Callable[[], int]
    ) -> Iterator[None]:
        """Show a body of ``total`` bytes meanwhile, if it is long; ``done`` tells how many."""
        if total < SHOWN_BYTES_MIN:
            yield
            return
        posted = _Posted(peer, direction, asyncio.get_running_loop().time(), total, done)
        self._posted.append(posted)
        try:
            yield
        finally:
            self._posted.remove(posted)

    def status(self) -> Iterator[TransferStatus]:
        """Yield how far they are."""
        now = asyncio.get_running_loop().time()
        for peer, direction, began_at, total, done in self._posted:
            yield from Progress(done(), total, 0, began_at).status(peer, direction, now)
