"""The options that algorithms in rounds have in common.

Invariant: declared here once; an algorithm's own options are a subclass beside its code.
"""

from __future__ import annotations

from gossipnode.options import AlgorithmOptions, option


class LockstepOptions(AlgorithmOptions):
    """How long synchronous rounds wait."""

    deadline_s: float = option(
        10.0,
        "How long a round waits for a neighbour's model before its weight goes to the node itself.",
        unit="s",
        flag="--deadline-s",
        gt=0,
        le=86_400,
    )
    start_deadline_s: float = option(
        60.0,
        "The same for a neighbour that has never been heard of, counted from the start, so that a "
        "swarm may start in any order; deadline_s where that is later.",
        unit="s",
        ge=0,
        le=86_400,
    )

    def round_s_max(self, training_s: float) -> float:
        """Return training and the longest of the waits."""
        return training_s + max(self.deadline_s, self.start_deadline_s)


class SharingOptions(LockstepOptions):
    """Rounds whose messages may also tell how the swarm is."""

    swarm_metrics: bool = option(
        False,
        "Tell in each message also loss, steps per second and samples, and follow the swarm's "
        "means of them by dynamic average consensus; `gossipnode status` shows them. Needs a "
        "doubly stochastic W. The same on every node.",
        flag="--swarm-metrics",
    )
