"""How far long bodies are, for people who wait for them.

Invariant: nothing is measured for it on the way but when a body began; looking computes the rest.
"""

from __future__ import annotations

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
