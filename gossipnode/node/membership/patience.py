"""How long to wait: for an answer, and for a suspect to contradict. Formulas, without a clock.

Invariant: every time here has a least and a greatest value, whatever was measured or said.

*Source*: Dadgar, Phillips, Currey, "Lifeguard", DSN-W 2018, section IV (local health, suspicion
that shrinks with confirmations, both as in memberlist); Jacobson, SIGCOMM 1988 (round trips).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEALTH_MAX = 8
# An answer is waited for at most so many times the least time: 12 s. Processes that share two busy
# cores with 127 others answer after seconds, and taking them for gone costs more of what they lack.
TIMEOUT_FACTOR_MAX = 40.0
# Before any was measured: 3 s, as TCP has it (RFC 1122); all may be starting just now.
UNMEASURED_FACTOR = 10.0
# A suspicion that nobody else confirms lasts so many times as long as one that enough do.
UNCONFIRMED_FACTOR = 3.0
# Between a rumour and its contradiction are two ways and what a loop takes: twice over.
TIMEOUTS_A_SUSPICION = 4.0


class LocalHealth:
    """How much this node has to blame itself: 0 to ``HEALTH_MAX``."""

    def __init__(self) -> None:
        self.score = 0

    @property
    def factor(self) -> int:
        """By what this node's own times are multiplied."""
        return 1 + self.score

    def worse(self, by: int = 1) -> None:
        """Something went wrong that may be this node's fault."""
        self.score = min(self.score + by, HEALTH_MAX)

    def better(self) -> None:
        """Something went right."""
        self.score = max(self.score - 1, 0)


class RoundTrips:
    """The time that answers take lately; ``least_s`` is what is waited at least."""

    def __init__(self, least_s: float) -> None:
        self.least_s = least_s
        self._mean: float | None = None
        self._deviation = 0.0

    def took(self, seconds: float) -> None:
        """Take an answer into account."""
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        surplus = abs(seconds - self._mean) - self._deviation
        # Up at once, down slowly: a calm moment must not make the next answer late.
        self._deviation += surplus / (4 if surplus > 0 else 16)
        self._mean += (seconds - self._mean) / 8

    @property
    def timeout_s(self) -> float:
        """Return how long to wait for an answer."""
        if self._mean is None:
            return UNMEASURED_FACTOR * self.least_s
        measured = self._mean + 4 * self._deviation
        return min(max(measured, self.least_s), TIMEOUT_FACTOR_MAX * self.least_s)


@dataclass(frozen=True, slots=True)
class SuspicionTimes:
    """How long a suspicion lasts: ``high_s``, or ``low_s`` with ``wanted`` confirmations."""

    low_s: float
    high_s: float
    wanted: int

    @classmethod
    def of(
        cls, factor: float, period_s: float, timeout_s: float, nodes: int, helpers: int
    ) -> SuspicionTimes:
        """Return the times in a swarm of ``nodes``, where ``helpers`` are asked for each other."""
        low_s = factor * max(1.0, math.log10(max(nodes, 1))) * period_s
        low_s = max(low_s, TIMEOUTS_A_SUSPICION * timeout_s)
        # Neither the suspect nor this node confirms.
        return cls(low_s, UNCONFIRMED_FACTOR * low_s, max(min(helpers, nodes - 2), 0))

    def seconds(self, confirmations: int) -> float:
        """Return how long it lasts with so many confirmations of others.

        >>> times = SuspicionTimes(2.0, 6.0, 3)
        >>> [round(times.seconds(c), 3) for c in range(5)]
        [6.0, 4.0, 2.83, 2.0, 2.0]
        """
        if confirmations >= self.wanted:
            return self.low_s
        share = math.log(confirmations + 1) / math.log(self.wanted + 1)
        return self.high_s - share * (self.high_s - self.low_s)
